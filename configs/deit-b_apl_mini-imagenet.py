# DeiT-B/16 with absolute positional labels on Mini-ImageNet.
# Table 5, row "DeiT-B + APL": 66.49 / 85.34.
#   tools/dist_train.sh configs/deit-b_apl_mini-imagenet.py 8
_base_ = './deit-b_mini-imagenet.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
