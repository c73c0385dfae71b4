# MAE pre-training of ViT-B/16 with the offsets between its visible patches regressed in place of
# mae-vit-b_apl_in1k.py's labels. For tools/benchmark.py alone.
_base_ = '../configs/mae-vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none'),
    pos_head=dict(type='poslabel_mm.OffsetRegressionHead', in_channels=768, grid_size=14),
)
