# MoCo v3 pre-training of the small ViT on handwritten digits: the baseline.
# Two crops of an image, each of 30 to 100 % of its area; no flips: a mirrored digit is another
# sign. Epochs, optimizer and schedule are those of MAE.
#   python tools/train.py configs/mocov3-vit-tiny_digits.py
_base_ = './mae-vit-tiny_digits.py'

neck = dict(
    type='NonLinearNeck',
    hid_channels=128,
    out_channels=32,
    num_layers=2,
    with_bias=False,
    with_last_bn=True,
    with_last_bn_affine=False,
    with_last_bias=False,
    with_avg_pool=False,
)

model = dict(
    _delete_=True,
    type='MoCoV3',
    base_momentum=0.01,
    backbone=dict(
        type='MoCoV3ViT',
        arch=dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=128),
        img_size=24,
        patch_size=4,
        stop_grad_conv1=True,
    ),
    neck=dict(in_channels=64, **neck),
    head=dict(
        type='MoCoV3Head',
        predictor=dict(in_channels=32, **neck),
        loss=dict(type='CrossEntropyLoss', loss_weight=0.4),
        temperature=0.2,
    ),
)

view = [
    dict(type='RandomResizedCrop', scale=24, crop_ratio_range=(0.3, 1.0), interpolation='bicubic'),
]
train_pipeline = [
    _base_.show_at_24_px,
    dict(type='MultiView', num_views=2, transforms=[view]),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
