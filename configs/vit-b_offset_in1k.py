# ViT-B/16 with the offsets between its patches regressed, 224 px: all 196 x 196 pairs.
#   tools/dist_train.sh configs/vit-b_offset_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.OffsetRegressionHead', in_channels=768, grid_size=14),
)
