# The recipe of Sec. 4.1 on ImageNet-1K: Swin's augmentation and AdamW with
# weight decay 0.05, learning rate 1e-3 at batch 256, 300 epochs, cosine decay
# after 20 epochs of linear warm-up.
# 1,281,167 images / 256 = 5,005 iterations an epoch, 1.5 M in all.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    './runtime.py',
]

train_dataloader = dict(batch_size=32)  # x 8 GPUs = 256

optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
        }),
    clip_grad=dict(max_norm=5.0))

auto_scale_lr = dict(base_batch_size=256)
