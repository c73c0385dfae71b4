# vit-s_apl_imagenette.py without positional encoding.
#   python tools/train.py configs/vit-s_nope_apl_imagenette.py
_base_ = './vit-s_apl_imagenette.py'

model = dict(backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none'))
