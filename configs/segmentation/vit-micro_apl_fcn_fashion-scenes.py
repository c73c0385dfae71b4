# vit-micro_fcn_fashion-scenes.py from the ViT of vit-micro_apl_imagenette.py, with absolute
# positional labels: 8x8 = 64.
#   python tools/train.py configs/segmentation/vit-micro_apl_fcn_fashion-scenes.py
_base_ = './vit-micro_fcn_fashion-scenes.py'

model = dict(
    type='PositionalLabelEncoderDecoder',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/vit-micro_apl_imagenette/epoch_8.pth')),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=96, grid_size=8),
)
