# DeiT-B/16 without distillation, 224 px: the baseline. Sec. 4.1 gives ViT-B and
# DeiT-B one recipe, so DeiT's initialisation is all that sets it apart.
# Table 4, row "DeiT-B": 81.87 / 93.92.
#   tools/dist_train.sh configs/deit-b_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(
    backbone=dict(arch='deit-base'),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=.02),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])
