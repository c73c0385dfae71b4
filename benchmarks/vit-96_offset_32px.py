# The ViT of vit-96_32px.py with the offsets between its patches regressed:
# python tools/benchmark.py step benchmarks/vit-96_32px.py benchmarks/vit-96_offset_32px.py
_base_ = './vit-96_32px.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.OffsetRegressionHead', in_channels=96, grid_size=8),
)
