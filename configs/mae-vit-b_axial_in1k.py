# MAE pre-training with axial relative labels of all pairs of visible patches, and no positional
# encoding in the encoder. No row of the paper; vit-b_axial_from-mae_in1k.py fine-tunes.
#   tools/dist_train.sh configs/mae-vit-b_axial_in1k.py 8
_base_ = './mae-vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none'),
    pos_head=dict(type='poslabel_mm.AxialRelativeLabelHead', in_channels=768, grid_size=14),
)
