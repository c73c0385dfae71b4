# ViT-B/16 with axial relative labels, 224 px: 27 row offsets and 27 column offsets in place of
# 27x27 relations. No row of the paper.
#   tools/dist_train.sh configs/vit-b_axial_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.AxialRelativeLabelHead', in_channels=768, grid_size=14),
)
