# A recipe for few images, trained from scratch: that of "Vision Transformer for
# Small-Size Datasets" (arXiv 2112.13492, github.com/aanna0701/SPT_LSA_ViT, main.py):
# AdamW with weight decay 0.05, learning rate 1e-3 at batch 128, 100 epochs, cosine
# decay after 10 epochs of linear warm-up, stochastic depth 0.1, label smoothing 0.1,
# Mixup and CutMix. Here a batch is 32, so the learning rate is a quarter of that.
# Clipping, augmentation and strength of Mixup are those of the other configs.
_base_ = ['./folder.py', './schedule_300e.py']

epochs = 100
warmup_epochs = 10

optim_wrapper = dict(optimizer=dict(lr=1e-3 * 32 / 128))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, end=warmup_epochs, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=warmup_epochs,
        T_max=epochs - warmup_epochs,
        eta_min=1e-6,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=epochs)

auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(logger=dict(interval=10))
