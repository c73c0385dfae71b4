# vit-micro_apl_imagenette.py with the encoding left out for 3 of 4 patches in training, as in
# DropPos. Only those patches are labelled, so that the encoding does not give the label away.
#   python tools/train.py configs/vit-micro_drop-apl_imagenette.py
_base_ = './vit-micro_apl_imagenette.py'

model = dict(
    backbone=dict(
        type='poslabel_mm.PositionalVisionTransformer',
        pos_drop=dict(patches=0.75, labelled='dropped'),
    )
)
