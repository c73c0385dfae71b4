# NesT-B with relative positional labels: 27x27 = 729 offsets.
# Table 4, row "NesT-B + RPL": 83.93 / 96.81.
#   tools/dist_train.sh configs/nest-b_rpl_in1k.py 8
_base_ = './nest-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=512, grid_size=14),
)
