# ViT-B/16 with the coordinates of its patches regressed, 224 px.
#   tools/dist_train.sh configs/vit-b_coord_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionRegressionHead', in_channels=768, grid_size=14),
)
