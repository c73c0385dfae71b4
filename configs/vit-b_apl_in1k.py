# ViT-B/16 with absolute positional labels, 224 px: 14x14 = 196 positions.
# Table 1, row "ViT-B + PE + APL": 79.11 / 93.73.
# Table 3, row "crop + RHF + APL": 79.11 / 93.73.
# Table 4, row "ViT-B + APL": 79.11 / 93.73.
# Fig. 5 varies model.pos_head.loss_weight.
#   tools/dist_train.sh configs/vit-b_apl_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
