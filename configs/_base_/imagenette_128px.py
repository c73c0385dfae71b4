# imagenette_64px.py with the photographs shown at 128 px. The copy of docs/results.md has no more
# pixels; for tests it is enlarged to 144 px and cropped.
_base_ = './imagenette_64px.py'

train_pipeline = [
    dict(type='RandomResizedCrop', scale=128, crop_ratio_range=(0.35, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='poslabel_mm.LoadMissingImage'),
    dict(type='ResizeEdge', scale=144, edge='short', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=128),
    dict(type='PackInputs'),
]

train_dataloader = dict(batch_size=128, dataset=dict(short_side=128, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(short_side=128, pipeline=test_pipeline))
test_dataloader = val_dataloader
