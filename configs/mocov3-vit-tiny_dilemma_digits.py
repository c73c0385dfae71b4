# The same pre-training with DILEMMA's objective (arXiv 2204.04788) beside the contrastive loss: a
# fifth of a view's patches get the encoding of another place, the momentum encoder's keep theirs.
#   python tools/train.py configs/mocov3-vit-tiny_dilemma_digits.py
_base_ = './mocov3-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelMoCoV3',
    backbone=dict(type='poslabel_mm.PositionalMoCoV3ViT', pos_swap=0.2),
    pos_head=dict(type='poslabel_mm.SwappedEncodingHead', in_channels=64, loss_weight=1.0),
)
