# MAE pre-training with absolute positional labels of the visible patches, and
# no positional encoding in the encoder (Sec. 3.3).
# Table 7, row "ViT-B + MAE + APL", the first half; vit-b_apl_from-mae_in1k.py
# is the second. Fig. 8 varies model.backbone.mask_ratio.
#   tools/dist_train.sh configs/mae-vit-b_apl_in1k.py 8
_base_ = './mae-vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none'),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=14),
)
