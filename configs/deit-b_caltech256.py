# DeiT-B/16 on Caltech-256: the baseline.
# Table 6, row "DeiT-B": 40.56 / 61.24.
# Where Sec. 4.1 gives no value, DeiT's own is taken: see _base_/models/deit-b.py.
#   tools/dist_train.sh configs/deit-b_caltech256.py 8
_base_ = ['./_base_/models/deit-b.py', './_base_/caltech256_300e.py']

model = dict(head=dict(num_classes=257))
train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(clip_grad=None)
