# In place of Swin-T: 64 px, windows of 4x4, stages of 16x16, 8x8, 4x4 and, the
# last merging left out, 4x4 tokens; 16 to 128 channels.
_base_ = './common.py'

image_size = 64
position_head = dict(in_channels=128, grid_size=4)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]),
        img_size=64,
        window_size=4,
    ),
    head=dict(in_channels=128),
)
