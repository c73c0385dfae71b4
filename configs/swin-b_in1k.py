# The modified Swin-B, 224 px: conditional positional encoding, and a last stage
# at H/16. The baseline.
# Table 4, row "Swin-B": 83.35 / 96.38.
#   tools/dist_train.sh configs/swin-b_in1k.py 8
_base_ = ['./_base_/models/swin-b.py', './_base_/imagenet_300e.py']
