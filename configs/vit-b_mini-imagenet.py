# ViT-B/16 on Mini-ImageNet: the baseline.
# Table 5, row "ViT-B": 58.28 / 79.57.
#   tools/dist_train.sh configs/vit-b_mini-imagenet.py 8
_base_ = ['./_base_/models/vit-b.py', './_base_/mini_imagenet_300e.py']

model = dict(head=dict(num_classes=100))
