# The ViT, seed and schedule of vit-micro_imagenette.py with axial relative labels: 15 row
# offsets and 15 column offsets.
#   python tools/train.py configs/vit-micro_axial_imagenette.py
_base_ = './vit-micro_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.AxialRelativeLabelHead', in_channels=96, grid_size=8),
)
