# vit-tiny_apl_digits.py without positional encoding: places are told by what the patches show.
#   python tools/train.py configs/vit-tiny_nope_apl_digits.py
_base_ = './vit-tiny_apl_digits.py'

model = dict(backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none'))
