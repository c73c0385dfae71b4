# The ViT, seed and schedule of vit-micro_imagenette.py with the coordinates of its patches
# regressed.
#   python tools/train.py configs/vit-micro_coord_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionRegressionHead', in_channels=96, grid_size=8),
)
