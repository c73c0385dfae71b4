# The same pre-training with absolute positional labels of the patches,
# and no positional encoding.
#   python tools/train.py configs/igpt-vit-tiny_apl_digits.py
_base_ = './igpt-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelIGPT',
    backbone=dict(pos_encoding='none'),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=64, grid_size=6),
)
