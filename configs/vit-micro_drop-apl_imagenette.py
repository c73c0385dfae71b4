# vit-micro_apl_imagenette.py with the encoding left out for 3 of 4 patches in training, which
# alone are labelled: they cannot copy it (as in DropPos).
#   python tools/train.py configs/vit-micro_drop-apl_imagenette.py
_base_ = './vit-micro_apl_imagenette.py'

model = dict(
    backbone=dict(
        type='poslabel_mm.PositionalVisionTransformer',
        pos_drop=dict(patches=0.75, labelled='dropped'),
    )
)
