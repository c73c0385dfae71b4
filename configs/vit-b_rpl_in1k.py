# ViT-B/16 with relative positional labels, 224 px: 27x27 = 729 relations.
# Table 1, row "ViT-B + PE + RPL": 79.07 / 93.67.
# Table 3, row "crop + RHF + RPL": 79.07 / 93.67.
# Table 4, row "ViT-B + RPL": 79.07 / 93.67.
# Fig. 5 varies model.pos_head.loss_weight.
#   tools/dist_train.sh configs/vit-b_rpl_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
