# The modified Swin-B with absolute positional labels: 14x14 = 196 positions.
# Table 4, row "Swin-B + APL": 83.76 / 96.83.
#   tools/dist_train.sh configs/swin-b_apl_in1k.py 8
_base_ = './swin-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=1024, grid_size=14),
)
