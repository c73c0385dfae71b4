# UPerNet on the modified Swin-T of swin-t_in1k.py, ADE20K: the baseline.
_base_ = ['./_base_/swin-t_upernet.py', './_base_/ade20k_160k.py']
