# The same pre-training with relative positional labels of the pairs of visible patches,
# and no positional encoding in the encoder.
#   python tools/train.py configs/mae-vit-tiny_rpl_digits.py
_base_ = './mae-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none'),
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=64, grid_size=6),
)
