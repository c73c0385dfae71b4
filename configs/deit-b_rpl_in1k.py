# DeiT-B/16 with relative positional labels: 27x27 = 729 offsets.
# Table 4, row "DeiT-B + RPL": 82.85 / 94.21.
#   tools/dist_train.sh configs/deit-b_rpl_in1k.py 8
_base_ = './deit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
