# The modified Swin-T, 224 px: conditional positional encoding, and a last stage
# at H/16. The baseline.
# Table 2, row "Swin-T + PE": 81.32 / 95.64.
#   tools/dist_train.sh configs/swin-t_in1k.py 8
_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    './_base_/imagenet_300e.py',
]

model = dict(
    backbone=dict(
        type='poslabel_mm.PositionalSwinTransformer',
        pos_encoding='cpe',
        last_downsample=False))
