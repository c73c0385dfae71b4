# MAE pre-training of the small ViT on handwritten digits: the baseline.
# 6x6 patches, 9 of them visible, 40 epochs: about a minute on one CPU core.
#   python tools/train.py configs/mae-vit-tiny_digits.py
_base_ = ['./_base_/digits_train.py', './_base_/runtime.py']

model = dict(
    type='MAE',
    backbone=dict(
        type='MAEViT',
        arch=dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=128),
        img_size=24,
        patch_size=4,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='MAEPretrainDecoder',
        num_patches=36,
        patch_size=4,
        embed_dim=64,
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=4,
    ),
    head=dict(
        type='MAEPretrainHead',
        norm_pix=True,
        patch_size=4,
        loss=dict(type='PixelReconstructionLoss', criterion='L2'),
    ),
    init_cfg=[
        dict(type='Xavier', layer='Linear', distribution='uniform'),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)

# The digits' preprocessing, without classes.
data_preprocessor = dict(
    _delete_=True, type='SelfSupDataPreprocessor', mean=[78.0] * 3, std=[96.0] * 3, to_rgb=False
)
train_dataloader = dict(collate_fn=dict(type='default_collate'))

# 40 epochs of AdamW, 4 of them linear warm-up, then a cosine, step by step.
epochs = 40
warmup_epochs = 4

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
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

auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
