# In place of Swin-B: wider and deeper than the one for Swin-T.
_base_ = './swin-t.py'

position_head = dict(in_channels=192)
model = dict(
    backbone=dict(arch=dict(embed_dims=24, depths=[1, 1, 4, 1], num_heads=[1, 2, 3, 6])),
    head=dict(in_channels=192),
)
