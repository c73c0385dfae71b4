# In place of ViT-B: 28 px / 4 = 7x7 patches, 2 layers of 32 channels.
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
    head=dict(in_channels=32),
)
