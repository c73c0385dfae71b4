# DeiT-B/16 with absolute positional labels on Caltech-256.
# Table 6, row "DeiT-B + APL": 41.79 / 62.86.
#   tools/dist_train.sh configs/deit-b_apl_caltech256.py 8
_base_ = './deit-b_caltech256.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
