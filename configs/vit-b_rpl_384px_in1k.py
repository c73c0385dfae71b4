# ViT-B/16 with relative positional labels, 384 px: 47x47 = 2,209 relations.
#   tools/dist_train.sh configs/vit-b_rpl_384px_in1k.py 8
_base_ = './vit-b_384px_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=24),
)
