# The modified Swin-T, 224 px: conditional positional encoding, and a last stage
# at H/16. The baseline.
# Table 2, row "Swin-T + PE": 81.32 / 95.64.
#   tools/dist_train.sh configs/swin-t_in1k.py 8
_base_ = ['./_base_/models/swin-t.py', './_base_/imagenet_300e.py']
