# Scenes of four garments of Fashion-MNIST at 64 px, ten classes and the background: 10,000 to
# train on and 2,000 to test. Three epochs take about five minutes of a CPU core. The runtime is
# that of the classifiers, so that the config can be read without MMSegmentation.
_base_ = ['../../_base_/runtime.py']

default_scope = 'mmseg'
custom_imports = dict(imports=['poslabel_mm.mmseg'])

dataset_type = 'poslabel_mm.FashionMNISTScenes'
data_root = 'data/fashion_mnist'
data_preprocessor = dict(  # mean and deviation of the pixels of the scenes to train on
    type='SegDataPreProcessor', mean=[43.4] * 3, std=[78.5] * 3, bgr_to_rgb=False, size=(64, 64)
)

train_pipeline = [dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]
test_pipeline = [dict(type='PackSegInputs')]

# The scenes are in memory and small: workers would cost more than they give.
loader = dict(num_workers=0, persistent_workers=False)

train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        num_scenes=10000,
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **loader,
)
val_dataloader = dict(
    batch_size=128,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='test',
        num_scenes=2000,
        test_mode=True,
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator

# AdamW, one epoch of linear warm-up, then a cosine, step by step.
epochs = 3
warmup_epochs = 1

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05, fused=True),
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

auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(
    logger=dict(interval=50), visualization=dict(_delete_=True, type='SegVisualizationHook')
)
visualizer = dict(
    _delete_=True, type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
)
randomness = dict(seed=0)
