# The schedule of Sec. 4.1, whatever the data: AdamW with weight decay 0.05,
# learning rate 1e-3 at batch 256, 300 epochs, cosine decay after 20 epochs of
# linear warm-up.
_base_ = [
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    './runtime.py',
]

optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
        }
    ),
    clip_grad=dict(max_norm=5.0),
)

auto_scale_lr = dict(base_batch_size=256)
