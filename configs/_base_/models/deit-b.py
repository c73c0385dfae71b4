# DeiT-B/16 without distillation, 224 px. Sec. 4.1 gives ViT-B and DeiT-B one
# recipe, so DeiT's initialisation is all that sets it apart.
_base_ = './vit-b.py'

model = dict(
    backbone=dict(arch='deit-base'),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=.02),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])
