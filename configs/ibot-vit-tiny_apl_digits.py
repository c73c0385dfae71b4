# The same pre-training with absolute positional labels of the patches of every crop, masked or
# not. The encoding stays: nothing else is known of a masked patch.
#   python tools/train.py configs/ibot-vit-tiny_apl_digits.py
_base_ = './ibot-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelIBOT',
    pos_head=dict(
        type='poslabel_mm.PositionalLabelHead',
        in_channels=64,
        grid_size=6,
        on_grid_mismatch='rescale',
    ),
)
