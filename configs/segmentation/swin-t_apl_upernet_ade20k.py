# UPerNet on the modified Swin-T of swin-t_apl_in1k.py, ADE20K, with absolute
# positional labels: 32x32 = 1,024.
#   tools/dist_train.sh configs/segmentation/swin-t_apl_upernet_ade20k.py 8
_base_ = './swin-t_upernet_ade20k.py'

model = dict(
    type='PositionalLabelEncoderDecoder',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/swin-t_apl_in1k/epoch_300.pth')),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=32),
)
