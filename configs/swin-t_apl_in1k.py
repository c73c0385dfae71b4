# The modified Swin-T with absolute positional labels: 14x14 = 196 positions.
# Table 2, row "Swin-T + PE + APL": 81.51 / 95.83.
#   tools/dist_train.sh configs/swin-t_apl_in1k.py 8
_base_ = './swin-t_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
