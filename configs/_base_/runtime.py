# MMPretrain's runtime, and the hooks with which a long run can be stopped and resumed.
_base_ = ['mmpretrain::_base_/default_runtime.py', './stoppable.py']

# The last three epochs: a ViT-B's checkpoint with its optimizer is 1 GB.
default_hooks = dict(
    checkpoint=dict(type='poslabel_mm.AtomicCheckpointHook', interval=1, max_keep_ckpts=3)
)

# Written anew, for `mmpretrain::` stamps a `_scope_` on what it passes on,
# with which MMPretrain's browse_dataset fails.
visualizer = dict(
    _delete_=True, type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
