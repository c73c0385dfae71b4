# The modified Swin-T, absolute positional labels in place of an encoding.
# Table 2, row "Swin-T + APL": 80.89 / 95.17.
#   tools/dist_train.sh configs/swin-t_nope_apl_in1k.py 8
_base_ = './swin-t_nope_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
