# The 1,797 handwritten 8x8 digits of scikit-learn, half of them for training:
# 898 / 32 = 28 iterations an epoch and an incomplete last one.
# They are shown at 24 px and moved by up to 2 px, half a patch: the position
# label of a patch is its place in the moved view. No flips: a mirrored digit
# is another sign.
dataset_type = 'poslabel_mm.Digits'
data_preprocessor = dict(num_classes=10, mean=[78.0] * 3, std=[96.0] * 3, to_rgb=False)

show_at_24_px = dict(type='Resize', scale=24, interpolation='bicubic')

train_pipeline = [
    show_at_24_px,
    dict(type='RandomCrop', crop_size=24, padding=2),
    dict(type='PackInputs'),
]

# The images are in memory and small: workers would cost more than they give.
loader = dict(num_workers=0, persistent_workers=False)

train_dataloader = dict(
    batch_size=32,
    dataset=dict(type=dataset_type, split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **loader,
)
