# ViT-B/16 with absolute positional labels on Mini-ImageNet.
# Table 5, row "ViT-B + APL": 64.43 / 83.73.
#   tools/dist_train.sh configs/vit-b_apl_mini-imagenet.py 8
_base_ = './vit-b_mini-imagenet.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
