# The ViT, seed and schedule of vit-s_imagenette.py with absolute positional labels: 8x8 = 64.
#   python tools/train.py configs/vit-s_apl_imagenette.py
_base_ = './vit-s_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=384, grid_size=8),
)
