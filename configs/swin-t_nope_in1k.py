# The modified Swin-T without positional encoding.
# Table 2, row "Swin-T": 80.14 / 94.93.
#   tools/dist_train.sh configs/swin-t_nope_in1k.py 8
_base_ = './swin-t_in1k.py'

model = dict(backbone=dict(pos_encoding='none'))
