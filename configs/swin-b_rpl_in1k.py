# The modified Swin-B with relative positional labels: 27x27 = 729 offsets.
# Table 4, row "Swin-B + RPL": 84.09 / 96.77.
#   tools/dist_train.sh configs/swin-b_rpl_in1k.py 8
_base_ = './swin-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=1024, grid_size=14),
)
