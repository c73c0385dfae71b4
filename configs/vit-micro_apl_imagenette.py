# The ViT, seed and schedule of vit-micro_imagenette.py with absolute positional labels:
# 8x8 = 64.
#   python tools/train.py configs/vit-micro_apl_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=96, grid_size=8),
)
