# NesT-B with absolute positional labels: 14x14 = 196 positions.
# Table 4, row "NesT-B + APL": 84.13 / 96.85.
#   tools/dist_train.sh configs/nest-b_apl_in1k.py 8
_base_ = './nest-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=512, grid_size=14),
)
