# DINO pre-training of the small ViT on handwritten digits: the baseline.
# Two global crops of 40 to 100 % of the image at 24 px, 6x6 patches, and four local ones of 10 to
# 40 % at 16 px, 4x4 patches; no flips: a mirrored digit is another sign. Epochs, optimizer and
# schedule of the learning rate are those of MAE; the teacher's temperature warms up in 10 epochs,
# and the weight decay rises from 0.04 to 0.4 along a cosine.
#   python tools/train.py configs/dino-vit-tiny_digits.py
_base_ = './mae-vit-tiny_digits.py'

model = dict(
    _delete_=True,
    type='poslabel_mm.DINO',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=128),
        img_size=24,
        patch_size=4,
    ),
    neck=dict(
        type='poslabel_mm.DINONeck',
        in_channels=64,
        out_channels=256,
        hid_channels=128,
        bottleneck_channels=32,
    ),
    head=dict(
        type='poslabel_mm.DINOHead',
        out_channels=256,
        teacher_temp=dict(type='linear', start=0.04, end=0.07, epochs=10),
    ),
)

global_crop = dict(
    type='RandomResizedCrop', scale=24, crop_ratio_range=(0.4, 1.0), interpolation='bicubic'
)
local_crop = dict(
    type='RandomResizedCrop', scale=16, crop_ratio_range=(0.1, 0.4), interpolation='bicubic'
)
train_pipeline = [
    _base_.show_at_24_px,
    dict(type='MultiView', num_views=[2, 4], transforms=[[global_crop], [local_crop]]),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(optimizer=dict(weight_decay=0.04))
param_scheduler = [
    *_base_.param_scheduler,
    dict(
        type='CosineAnnealingParamScheduler',
        param_name='weight_decay',
        eta_min_ratio=10,  # of each group's own: what has none, as biases, keeps none
        T_max=_base_.epochs,
        convert_to_iter_based=True,
    ),
]
