# The ViT, seed and schedule of vit-tiny_digits.py with the offsets between its patches regressed.
#   python tools/train.py configs/vit-tiny_offset_digits.py
_base_ = './vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.OffsetRegressionHead', in_channels=64, grid_size=6),
)
