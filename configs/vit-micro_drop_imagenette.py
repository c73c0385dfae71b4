# vit-micro_imagenette.py with the encoding left out for 3 of 4 patches in training: what
# vit-micro_drop-apl_imagenette.py is without its labels.
#   python tools/train.py configs/vit-micro_drop_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    backbone=dict(
        type='poslabel_mm.PositionalVisionTransformer',
        pos_drop=dict(patches=0.75),
    )
)
