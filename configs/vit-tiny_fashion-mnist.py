# A small ViT on 5,000 images of Fashion-MNIST, about 500 a class as Mini-ImageNet
# has: the baseline, with its learned positional encoding.
# 7x7 patches of 4x4 pixels, 30 epochs of 157 iterations.
#   python tools/train.py configs/vit-tiny_fashion-mnist.py
_base_ = ['./_base_/fashion_mnist.py', './_base_/vit-tiny_30e.py']

model = dict(backbone=dict(img_size=28))

train_dataloader = dict(dataset=dict(indices=5000))  # the first ones
