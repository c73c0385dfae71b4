# NesT-B on ImageNet-1K: the baseline. Needs `pip install -e '.[nest]'`.
# Table 4, row "NesT-B": 83.67 / 96.16.
#   tools/dist_train.sh configs/nest-b_in1k.py 8
_base_ = ['./_base_/models/nest-b.py', './_base_/imagenet_300e.py']
