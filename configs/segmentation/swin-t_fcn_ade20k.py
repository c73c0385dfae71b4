# FCN on the modified Swin-T of swin-t_in1k.py, ADE20K: the baseline.
#   tools/dist_train.sh configs/segmentation/swin-t_fcn_ade20k.py 8
_base_ = ['./_base_/swin-t_fcn.py', './_base_/ade20k_160k.py']
