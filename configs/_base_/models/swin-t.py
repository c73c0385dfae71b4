# The modified Swin-T of Sec. 3.4, 224 px: conditional positional encoding, and a
# last stage at H/16.
_base_ = 'mmpretrain::_base_/models/swin_transformer/tiny_224.py'

model = dict(
    backbone=dict(
        type='poslabel_mm.PositionalSwinTransformer', pos_encoding='cpe', last_downsample=False
    )
)
