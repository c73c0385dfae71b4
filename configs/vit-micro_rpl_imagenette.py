# The ViT, seed and schedule of vit-micro_imagenette.py with relative positional labels of all
# pairs: 15x15 = 225.
#   python tools/train.py configs/vit-micro_rpl_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=96, grid_size=8),
)
