# The ViT, seed and schedule of vit-tiny_digits.py with DILEMMA's objective (arXiv 2204.04788): a
# fifth of the patches get the encoding of another place, and every token tells whether it did.
#   python tools/train.py configs/vit-tiny_dilemma_digits.py
_base_ = './vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_swap=0.2),
    pos_head=dict(type='poslabel_mm.SwappedEncodingHead', in_channels=64),
)
