# MMPretrain's own MAE pre-training of ViT-B/16: batch 8 x 512 = 4096, 400
# epochs, masking ratio 0.75, mixed precision.
# 1,281,167 images / 4096 = 313 iterations an epoch, 125,200 in all.
_base_ = [
    'mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-400e_in1k.py',
    './stoppable.py',
]

# As in runtime.py, which MMPretrain's config leaves no room for as a base.
default_hooks = dict(checkpoint=dict(type='poslabel_mm.AtomicCheckpointHook'))
visualizer = dict(
    _delete_=True, type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
resume = False  # but with --resume

# Written anew without the `_scope_` of `mmpretrain::`, which MMEngine would pass
# to the function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type='default_collate'))
