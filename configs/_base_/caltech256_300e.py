# The recipe of Sec. 4.1 on Caltech-256.
# About 24,500 images / 256 = 96 iterations an epoch, 28,800 in all.
_base_ = ['./caltech256.py', './schedule_300e.py']
