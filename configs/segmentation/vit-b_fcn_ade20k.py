# FCN on the ViT-B/16 of vit-b_in1k.py, ADE20K: the baseline.
_base_ = ['./_base_/vit-b_fcn.py', './_base_/ade20k_160k.py']
