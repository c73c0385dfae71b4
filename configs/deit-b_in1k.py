# DeiT-B/16 without distillation, 224 px: the baseline.
# Table 4, row "DeiT-B": 81.87 / 93.92.
# Where Sec. 4.1 gives no value, DeiT's own is taken: see _base_/models/deit-b.py.
#   tools/dist_train.sh configs/deit-b_in1k.py 8
_base_ = ['./_base_/models/deit-b.py', './_base_/imagenet_300e.py']

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(clip_grad=None)
