# MAE pre-training of the ViT of vit-micro_imagenette.py: the baseline. 8x8 patches, 16 of them
# visible, 16 epochs of 148 iterations: some six minutes of a CPU core.
#   python tools/train.py configs/mae-vit-micro_imagenette.py
_base_ = ['./_base_/imagenette_64px.py', './_base_/runtime.py']

model = dict(
    type='MAE',
    backbone=dict(
        type='MAEViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=192),
        img_size=64,
        patch_size=8,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=64,
        patch_size=8,
        embed_dim=96,
        decoder_embed_dim=48,
        decoder_depth=1,
        decoder_num_heads=3,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=8,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)

# Imagenette's preprocessing, without classes, and its training images alone.
data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
train_dataloader = dict(collate_fn=dict(type='default_collate'))
val_dataloader = None
val_evaluator = None
test_dataloader = None
test_evaluator = None

# 16 epochs of AdamW, 2 of them linear warm-up, then a cosine, step by step.
epochs = 16
warmup_epochs = 2

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            'pos_embed': dict(decay_mult=0.0),
            'mask_token': dict(decay_mult=0.0),
            'cls_token': dict(decay_mult=0.0),
        },
    ),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, end=warmup_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=warmup_epochs,
        T_max=epochs - warmup_epochs,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=epochs)

auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(logger=dict(interval=50))
randomness = dict(seed=0)
