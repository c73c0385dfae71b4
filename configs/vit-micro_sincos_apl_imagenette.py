# vit-micro_apl_imagenette.py with a learned encoding that starts as sines and cosines.
#   python tools/train.py configs/vit-micro_sincos_apl_imagenette.py
_base_ = './vit-micro_apl_imagenette.py'

model = dict(
    backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='learned_sincos')
)
