# In place of MAE's ViT-B: the encoder of vit-b.py, 12 of its 49 patches visible,
# and a decoder of one layer.
_base_ = './common.py'

image_size = 28
position_head = dict(in_channels=32, grid_size=7)
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64
        ),
        img_size=28,
        patch_size=4,
    ),
    neck=dict(
        num_patches=49,
        patch_size=4,
        embed_dim=32,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    ),
    head=dict(patch_size=4),
)
