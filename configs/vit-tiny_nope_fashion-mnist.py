# The small ViT on Fashion-MNIST without positional encoding.
#   python tools/train.py configs/vit-tiny_nope_fashion-mnist.py
_base_ = './vit-tiny_fashion-mnist.py'

model = dict(backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none'))
