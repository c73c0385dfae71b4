# The ViT, seed and schedule of vit-micro_imagenette.py with DILEMMA's objective: a fifth of the
# patches get the encoding of another place, and every token tells whether it did.
#   python tools/train.py configs/vit-micro_dilemma_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_swap=0.2),
    pos_head=dict(type='poslabel_mm.SwappedEncodingHead', in_channels=96),
)
