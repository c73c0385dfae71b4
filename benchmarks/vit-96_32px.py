# A ViT of 4 layers and 96 channels at 32 px, 8x8 patches: what trains without a cluster. For
# tools/benchmark.py alone; its images are random.
_base_ = '../configs/vit-tiny_digits.py'

model = dict(
    backbone=dict(
        img_size=32,
        arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
    ),
    head=dict(in_channels=96),
)
