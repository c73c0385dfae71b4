# Fashion-MNIST: 60,000 grey images of 28x28 pixels to train on and 10,000 to
# test, ten kinds of clothes. Moved by up to 2 px; garments may be mirrored.
dataset_type = 'poslabel_mm.FashionMNIST'
data_root = 'data/fashion_mnist'
data_preprocessor = dict(num_classes=10, mean=[72.9] * 3, std=[90.0] * 3, to_rgb=False)

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
# For an image of the test set the first two do nothing: they are for tools that
# show the model one file.
test_pipeline = [
    dict(type='poslabel_mm.LoadMissingImage'),
    dict(type='Resize', scale=28),
    dict(type='PackInputs'),
]

# The images are in memory and small: workers would cost more than they give.
loader = dict(num_workers=0, persistent_workers=False)

train_dataloader = dict(
    batch_size=32,
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **loader,
)
val_dataloader = dict(
    batch_size=128,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='test',
        test_mode=True,
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **loader,
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
