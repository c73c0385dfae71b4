# The ViT, seed and schedule of vit-tiny_digits.py with absolute positional labels:
# 6x6 = 36.
#   python tools/train.py configs/vit-tiny_apl_digits.py
_base_ = './vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=64, grid_size=6),
)
