# The recipe of Sec. 4.1 on ImageNet-1K, with Swin's augmentation.
# 1,281,167 images / 256 = 5,005 iterations an epoch, 1,501,500 in all.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    './schedule_300e.py',
]

train_dataloader = dict(batch_size=32)  # x 8 GPUs = 256
