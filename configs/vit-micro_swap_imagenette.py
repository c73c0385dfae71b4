# vit-micro_imagenette.py with a fifth of the patches given the encoding of another place in
# training: what vit-micro_dilemma_imagenette.py is without its head.
#   python tools/train.py configs/vit-micro_swap_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_swap=0.2),
)
