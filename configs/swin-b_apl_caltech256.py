# The modified Swin-B with absolute positional labels on Caltech-256.
# Table 6, row "Swin-B + APL": 48.91 / 68.33.
#   tools/dist_train.sh configs/swin-b_apl_caltech256.py 8
_base_ = './swin-b_caltech256.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=1024, grid_size=14),
)
