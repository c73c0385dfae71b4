# DeiT-B/16 on Mini-ImageNet: the baseline.
# Table 5, row "DeiT-B": 63.67 / 83.92.
# Where Sec. 4.1 gives no value, DeiT's own is taken: see _base_/models/deit-b.py.
#   tools/dist_train.sh configs/deit-b_mini-imagenet.py 8
_base_ = ['./_base_/models/deit-b.py', './_base_/mini_imagenet_300e.py']

model = dict(head=dict(num_classes=100))
train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(clip_grad=None)
