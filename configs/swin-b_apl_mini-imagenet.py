# The modified Swin-B with absolute positional labels on Mini-ImageNet.
# Table 5, row "Swin-B + APL": 68.91 / 87.83.
#   tools/dist_train.sh configs/swin-b_apl_mini-imagenet.py 8
_base_ = './swin-b_mini-imagenet.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=1024, grid_size=14),
)
