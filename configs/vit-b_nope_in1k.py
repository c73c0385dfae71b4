# ViT-B/16 without positional encoding, 224 px.
# Table 1, row "ViT-B": 76.34 / 90.83.
#   tools/dist_train.sh configs/vit-b_nope_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(backbone=dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none'))
