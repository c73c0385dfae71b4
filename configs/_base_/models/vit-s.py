# ViT-S/16 with its learned positional encoding, 224 px: 22 million weights where
# ViT-B has 86. The widths are DeiT-S's; MMPretrain's `small` is another model.
_base_ = './vit-b.py'

model = dict(backbone=dict(arch='deit-small'), head=dict(in_channels=384))
