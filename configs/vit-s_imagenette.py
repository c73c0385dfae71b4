# ViT-S/16 on Imagenette at 128 px, 8x8 patches of 16x16 pixels: the baseline, with its learned
# positional encoding. 20 epochs of 74 iterations in bfloat16, a minute or two of a GPU.
#   python tools/train.py configs/vit-s_imagenette.py
_base_ = [
    './_base_/models/vit-s.py',
    './_base_/imagenette_128px.py',
    './_base_/runtime.py',
]

# As in the small models' recipe, images are not mixed.
model = dict(backbone=dict(img_size=128), head=dict(num_classes=10), train_cfg=None)

epochs = 20
warmup_epochs = 2

optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='AdamW', lr=3e-4, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
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
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=epochs)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=128)
# A checkpoint with its optimizer is 260 MB.
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
)
randomness = dict(seed=0)
