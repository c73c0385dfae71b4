# ViT-B/16 with relative positional labels on Caltech-256.
# Table 6, row "ViT-B + RPL": 40.51 / 61.07.
#   tools/dist_train.sh configs/vit-b_rpl_caltech256.py 8
_base_ = './vit-b_caltech256.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
