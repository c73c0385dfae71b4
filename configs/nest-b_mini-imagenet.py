# NesT-B on Mini-ImageNet: the baseline.
# Table 5, row "NesT-B": 67.43 / 86.75.
#   tools/dist_train.sh configs/nest-b_mini-imagenet.py 8
_base_ = ['./_base_/models/nest-b.py', './_base_/mini_imagenet_300e.py']

model = dict(head=dict(num_classes=100))
