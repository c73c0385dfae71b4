# The digits, half of them to train on and half of them to test.
_base_ = './digits_train.py'

test_pipeline = [
    dict(type='poslabel_mm.LoadMissingImage'),  # of a tool that shows one file
    _base_.show_at_24_px,
    dict(type='PackInputs'),
]

val_dataloader = dict(
    batch_size=128,
    dataset=dict(type=_base_.dataset_type, split='test', test_mode=True, pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **_base_.loader,
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
