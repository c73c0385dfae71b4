# In place of DeiT-B, which has the architecture of ViT-B.
_base_ = './vit-b.py'
