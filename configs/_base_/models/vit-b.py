# ViT-B/16 with its learned positional encoding, 224 px.
_base_ = 'mmpretrain::_base_/models/vit-base-p16.py'

# Swin's regularisation: stochastic depth in place of dropout (the paper gives
# no rate; 0.1 is the default of Swin's code, and DeiT-B's), Mixup, CutMix and
# label smoothing as timm does it.
model = dict(
    backbone=dict(drop_rate=0.0, drop_path_rate=0.1),
    head=dict(loss=dict(mode='original')),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
