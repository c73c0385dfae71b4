# ViT-B/16 with its learned positional encoding, 224 px: the baseline.
# Tables 1 and 4, row "ViT-B": 77.91 / 92.48.
#   tools/dist_train.sh configs/vit-b_in1k.py 8
_base_ = [
    'mmpretrain::_base_/models/vit-base-p16.py',
    './_base_/imagenet_300e.py',
]

# Swin's regularisation: stochastic depth in place of dropout (the paper gives
# no rate; 0.1 is the default of Swin's code, and DeiT-B's), Mixup, CutMix and
# label smoothing as timm does it.
model = dict(
    backbone=dict(drop_rate=0., drop_path_rate=0.1),
    head=dict(loss=dict(mode='original')),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]))
