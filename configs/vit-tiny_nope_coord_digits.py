# vit-tiny_coord_digits.py without positional encoding.
#   python tools/train.py configs/vit-tiny_nope_coord_digits.py
_base_ = './vit-tiny_coord_digits.py'

model = dict(backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none'))
