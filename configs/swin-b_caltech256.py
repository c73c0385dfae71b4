# The modified Swin-B on Caltech-256: the baseline.
# Table 6, row "Swin-B": 46.67 / 67.22.
#   tools/dist_train.sh configs/swin-b_caltech256.py 8
_base_ = ['./_base_/models/swin-b.py', './_base_/caltech256_300e.py']

model = dict(head=dict(num_classes=257))
