# iGPT-style pre-training of the small ViT on handwritten digits: the baseline.
# Each of the 6x6 patches is predicted from those before it, in raster order, with MAE's target.
# Epochs, optimizer and schedule are those of MAE.
#   python tools/train.py configs/igpt-vit-tiny_digits.py
_base_ = './mae-vit-tiny_digits.py'

model = dict(
    type='poslabel_mm.IGPT',
    backbone=dict(
        _delete_=True,
        type='poslabel_mm.CausalVisionTransformer',
        arch=dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=128),
        img_size=24,
        patch_size=4,
    ),
    neck=dict(
        _delete_=True,
        type='LinearNeck',
        in_channels=64,
        out_channels=48,  # 4 x 4 pixels of 3 channels
        norm_cfg=None,
    ),
)
