# A small ViT on scikit-learn's handwritten digits: the baseline.
# 6x6 patches of 4x4 pixels, 30 epochs: about a minute on one CPU core.
#   python tools/train.py configs/vit-tiny_digits.py
_base_ = ['./_base_/digits.py', './_base_/vit-tiny_30e.py']

model = dict(backbone=dict(img_size=24))
