# The ViT of vit-96_32px.py with axial labels.
_base_ = './vit-96_32px.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.AxialRelativeLabelHead', in_channels=96, grid_size=8),
)
