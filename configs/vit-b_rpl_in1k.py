# ViT-B/16 with relative positional labels, 224 px: 27x27 = 729 relations.
# Tables 1 and 4, row "ViT-B + PE + RPL": 79.07 / 93.67.
#   tools/dist_train.sh configs/vit-b_rpl_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(
        type='poslabel_mm.RelativePositionalLabelHead',
        in_channels=768,
        grid_size=14))
