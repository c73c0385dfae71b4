# ViT-B/16 with the coordinates of its patches regressed in place of an encoding: the recipe of
# Active Spatial Guidance (arXiv 2607.00580).
#   tools/dist_train.sh configs/vit-b_nope_coord_in1k.py 8
_base_ = './vit-b_nope_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionRegressionHead', in_channels=768, grid_size=14),
)
