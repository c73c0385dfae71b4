# The same pre-training with absolute positional labels of the visible patches, and no positional
# encoding in the encoder. model.backbone.pos_encoding=sincos keeps the encoding beside the labels.
#   python tools/train.py configs/mae-vit-micro_apl_imagenette.py
_base_ = './mae-vit-micro_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none'),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=96, grid_size=8),
)
