# The pre-training of mae-vit-tiny_digits.py with axial relative labels of the pairs of visible
# patches, and no positional encoding in the encoder.
#   python tools/train.py configs/mae-vit-tiny_axial_digits.py
_base_ = './mae-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none'),
    pos_head=dict(type='poslabel_mm.AxialRelativeLabelHead', in_channels=64, grid_size=6),
)
