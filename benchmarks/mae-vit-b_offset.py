# MAE pre-training of ViT-B/16 with the offsets between its visible patches regressed in place of
# mae-vit-b_apl_in1k.py's labels:
# python tools/benchmark.py step mae-vit-b_in1k.py benchmarks/mae-vit-b_offset.py
_base_ = '../configs/mae-vit-b_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelMAE',
    backbone=dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none'),
    pos_head=dict(type='poslabel_mm.OffsetRegressionHead', in_channels=768, grid_size=14),
)
