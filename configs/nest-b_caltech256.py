# NesT-B on Caltech-256: the baseline.
# Table 6, row "NesT-B": 45.54 / 66.35.
#   tools/dist_train.sh configs/nest-b_caltech256.py 8
_base_ = ['./_base_/models/nest-b.py', './_base_/caltech256_300e.py']

model = dict(head=dict(num_classes=257))
