# ViT-B/16 with absolute positional labels on a dataset of this project, photos.py.
_base_ = 'poslabel_mm::vit-b_apl_in1k.py'

custom_imports = dict(imports=['photos'])

model = dict(head=dict(num_classes=2))
data_preprocessor = dict(num_classes=2)

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='Photos',
        data_root='data',
        ann_file='train.csv',
        pipeline=_base_.train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='Photos',
        data_root='data',
        ann_file='val.csv',
        pipeline=_base_.test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
