# The modified Swin-T with relative positional labels: 27x27 = 729 offsets.
# Table 2, row "Swin-T + PE + RPL": 81.93 / 95.67.
#   tools/dist_train.sh configs/swin-t_rpl_in1k.py 8
_base_ = './swin-t_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
