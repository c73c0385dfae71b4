# MMPretrain's own fine-tuning of a ViT-B/16 that MAE has pre-trained: batch
# 8 x 128 = 1024, 100 epochs, layer-wise learning rates.
# 1,281,167 images / 1024 = 1,252 iterations an epoch, 125,200 in all.
_base_ = [
    'mmpretrain::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py',
    './stoppable.py',
]

# The encoding starts as MAE's sine-cosine one, which a checkpoint that was
# trained without encoding leaves in place, and learns.
model = dict(
    backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='learned_sincos')
)

# As in runtime.py, which MMPretrain's config leaves no room for as a base.
default_hooks = dict(checkpoint=dict(type='poslabel_mm.AtomicCheckpointHook'))
visualizer = dict(
    _delete_=True, type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
