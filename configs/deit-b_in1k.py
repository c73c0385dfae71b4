# DeiT-B/16 without distillation, 224 px: the baseline. The ViT-B with DeiT's
# initialisation and label smoothing.
# Table 4, row "DeiT-B": 81.87 / 93.92.
#   tools/dist_train.sh configs/deit-b_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(
    backbone=dict(arch='deit-base'),
    head=dict(
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original')),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=.02),
        dict(type='Constant', layer='LayerNorm', val=1., bias=0.),
    ])
