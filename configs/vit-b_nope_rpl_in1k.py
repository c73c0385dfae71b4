# ViT-B/16 with relative positional labels in place of an encoding.
# Table 1, row "ViT-B + RPL": 78.00 / 92.40.
#   tools/dist_train.sh configs/vit-b_nope_rpl_in1k.py 8
_base_ = './vit-b_nope_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
