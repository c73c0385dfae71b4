# A ViT of 4 layers and 96 channels on Imagenette at 64 px, 8x8 patches of 8x8 pixels: the
# baseline, with its learned positional encoding. 8 epochs of 148 iterations are 76,000 images,
# some five minutes of a CPU core.
#   python tools/train.py configs/vit-micro_imagenette.py
_base_ = ['./_base_/imagenette_64px.py', './_base_/vit-tiny_30e.py']

model = dict(
    backbone=dict(
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=192),
        img_size=64,
        patch_size=8,
    ),
    head=dict(in_channels=96),
)

epochs = 8
warmup_epochs = 1

optim_wrapper = dict(optimizer=dict(lr=1e-3))
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
train_cfg = dict(max_epochs=epochs, val_interval=epochs)

auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(logger=dict(interval=50))
