# vit-s_apl_imagenette.py with rotary encoding in place of the learned one.
#   python tools/train.py configs/vit-s_rope_apl_imagenette.py
_base_ = './vit-s_apl_imagenette.py'

model = dict(backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='rope'))
