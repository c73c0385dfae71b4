# In place of DeiT-B, which differs from ViT-B in its initialisation alone.
_base_ = './vit-b.py'
