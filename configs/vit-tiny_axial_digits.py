# The ViT, seed and schedule of vit-tiny_digits.py with axial relative labels: 11 row offsets and
# 11 column offsets.
#   python tools/train.py configs/vit-tiny_axial_digits.py
_base_ = './vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.AxialRelativeLabelHead', in_channels=64, grid_size=6),
)
