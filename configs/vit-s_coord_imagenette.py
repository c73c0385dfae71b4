# The ViT, seed and schedule of vit-s_imagenette.py with the coordinates of its patches
# regressed.
#   python tools/train.py configs/vit-s_coord_imagenette.py
_base_ = './vit-s_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionRegressionHead', in_channels=384, grid_size=8),
)
