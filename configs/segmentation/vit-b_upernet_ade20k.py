# UPerNet on the ViT-B/16 of vit-b_in1k.py, ADE20K: the baseline.
#   tools/dist_train.sh configs/segmentation/vit-b_upernet_ade20k.py 8
_base_ = ['./_base_/vit-b_upernet.py', './_base_/ade20k_160k.py']
