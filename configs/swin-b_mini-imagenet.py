# The modified Swin-B on Mini-ImageNet: the baseline.
# Table 5, row "Swin-B": 67.39 / 86.88.
#   tools/dist_train.sh configs/swin-b_mini-imagenet.py 8
_base_ = ['./_base_/models/swin-b.py', './_base_/mini_imagenet_300e.py']

model = dict(head=dict(num_classes=100))
