# The same pre-training with absolute positional labels of the patches of every crop, and no
# positional encoding. A patch of a local crop has the place of the 6x6 grid at its centre:
# with 4x4 patches no centre lies between two places, with 3x3 patches all would.
#   python tools/train.py configs/dino-vit-tiny_apl_digits.py
_base_ = './dino-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelDINO',
    backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none'),
    pos_head=dict(
        type='poslabel_mm.PositionalLabelHead',
        in_channels=64,
        grid_size=6,
        on_grid_mismatch='rescale',
    ),
)
