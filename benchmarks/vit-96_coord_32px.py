# The ViT of vit-96_32px.py with the coordinates of its patches regressed:
# python tools/benchmark.py step benchmarks/vit-96_32px.py benchmarks/vit-96_coord_32px.py
_base_ = './vit-96_32px.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionRegressionHead', in_channels=96, grid_size=8),
)
