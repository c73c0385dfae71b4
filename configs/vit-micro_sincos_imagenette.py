# The ViT of vit-micro_imagenette.py whose learned encoding starts as sines and cosines.
#   python tools/train.py configs/vit-micro_sincos_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='learned_sincos')
)
