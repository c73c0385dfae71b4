# iBOT pre-training of the small ViT on handwritten digits: the baseline.
# DINO's pre-training, and the prediction of masked patches: 11 of the 36 of each global crop.
#   python tools/train.py configs/ibot-vit-tiny_digits.py
_base_ = './dino-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.IBOT',
    backbone=dict(out_type='raw'),
    patch_head=dict(
        type='poslabel_mm.IBOTHead',
        out_channels=256,
        teacher_temp=dict(type='linear', start=0.04, end=0.07, epochs=10),
    ),
)
