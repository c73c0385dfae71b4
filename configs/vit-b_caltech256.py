# ViT-B/16 on Caltech-256: the baseline.
# Table 6, row "ViT-B": 37.57 / 56.83.
#   tools/dist_train.sh configs/vit-b_caltech256.py 8
_base_ = ['./_base_/models/vit-b.py', './_base_/caltech256_300e.py']

model = dict(head=dict(num_classes=257))
