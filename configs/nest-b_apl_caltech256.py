# NesT-B with absolute positional labels on Caltech-256.
# Table 6, row "NesT-B + APL": 49.77 / 68.84.
#   tools/dist_train.sh configs/nest-b_apl_caltech256.py 8
_base_ = './nest-b_caltech256.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=512, grid_size=14),
)
