# vit-micro_offset_imagenette.py without positional encoding.
#   python tools/train.py configs/vit-micro_nope_offset_imagenette.py
_base_ = './vit-micro_offset_imagenette.py'

model = dict(backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none'))
