# The ViT, seed and schedule of vit-micro_imagenette.py with the offsets between its patches
# regressed.
#   python tools/train.py configs/vit-micro_offset_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.OffsetRegressionHead', in_channels=96, grid_size=8),
)
