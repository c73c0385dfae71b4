# DeiT-B/16 with absolute positional labels: 14x14 = 196 positions.
# Table 4, row "DeiT-B + APL": 82.49 / 94.34.
#   tools/dist_train.sh configs/deit-b_apl_in1k.py 8
_base_ = './deit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
