# ViT-B/16 with relative positional labels on Mini-ImageNet.
# Table 5, row "ViT-B + RPL": 63.97 / 83.06.
#   tools/dist_train.sh configs/vit-b_rpl_mini-imagenet.py 8
_base_ = './vit-b_mini-imagenet.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
