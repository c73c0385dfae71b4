# The same pre-training with the position and scale of each view in the other one as a label.
#   python tools/train.py configs/mocov3-vit-tiny_view_digits.py
_base_ = './mocov3-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelMoCoV3',
    pos_head=dict(type='poslabel_mm.ViewOffsetHead', in_channels=64),
)

# The same crops, recorded.
view = [
    dict(
        type='poslabel_mm.RecordedRandomResizedCrop',
        scale=24,
        crop_ratio_range=(0.3, 1.0),
        interpolation='bicubic',
    ),
]
train_pipeline = [
    _base_.show_at_24_px,
    dict(type='poslabel_mm.RecordedMultiView', num_views=2, transforms=[view]),
    dict(type='PackInputs', meta_keys=['view_boxes']),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
