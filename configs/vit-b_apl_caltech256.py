# ViT-B/16 with absolute positional labels on Caltech-256.
# Table 6, row "ViT-B + APL": 40.73 / 60.63.
#   tools/dist_train.sh configs/vit-b_apl_caltech256.py 8
_base_ = './vit-b_caltech256.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
