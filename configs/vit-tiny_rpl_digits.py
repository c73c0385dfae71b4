# The ViT, seed and schedule of vit-tiny_digits.py with relative positional labels:
# 11x11 = 121.
#   python tools/train.py configs/vit-tiny_rpl_digits.py
_base_ = './vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=64, grid_size=6),
)
