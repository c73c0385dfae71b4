# ViT-B/16 with absolute positional labels in place of an encoding.
# Table 1, row "ViT-B + APL": 78.19 / 92.87.
#   tools/dist_train.sh configs/vit-b_nope_apl_in1k.py 8
_base_ = './vit-b_nope_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
