# Imagenette, ten classes of ImageNet in ImageNet's layout (docs/data.md): 9,469
# photographs to train on and 3,925 to test, shown at 64 px. They are decoded once,
# reduced to 80 px on the shorter side, so that a CPU spends its time on the model.
dataset_type = 'poslabel_mm.DecodedImages'
data_root = 'data/imagenette'
data_preprocessor = dict(
    num_classes=10, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)

train_pipeline = [
    dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.35, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='poslabel_mm.LoadMissingImage'),
    dict(type='ResizeEdge', scale=72, edge='short', interpolation='area'),
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs'),
]

# The images are in memory and small: workers would cost more than they give.
loader = dict(num_workers=0, persistent_workers=False)

train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        type=dataset_type,
        short_side=80,
        data_root=data_root,
        data_prefix='train',
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **loader,
)
val_dataloader = dict(
    batch_size=128,
    dataset=dict(
        type=dataset_type,
        short_side=80,
        data_root=data_root,
        data_prefix='val',
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
