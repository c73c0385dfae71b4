# The recipe of Sec. 4.1 on Mini-ImageNet.
# 50,000 images / 256 = 196 iterations an epoch, 58,800 in all.
_base_ = ['./mini_imagenet.py', './schedule_300e.py']
