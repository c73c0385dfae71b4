# NesT-B by timm (`pip install -e '.[nest]'`), 224 px. Its last level has
# 14x14 tokens as it is. Stochastic depth 0.5 is what NesT's own code sets for
# NesT-B at 224 px (google-research/nested-transformer, models/nest_net.py).
model = dict(
    type='ImageClassifier',
    backbone=dict(type='TIMMBackbone', model_name='nest_base', drop_path_rate=0.5),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        cal_acc=False,
    ),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
