# ViT-B/16 with absolute positional labels, 384 px: 24x24 = 576 positions.
#   tools/dist_train.sh configs/vit-b_apl_384px_in1k.py 8
_base_ = './vit-b_384px_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=24),
)
