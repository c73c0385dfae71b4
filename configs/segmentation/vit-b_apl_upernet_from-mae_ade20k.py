# UPerNet on the ViT-B/16 that MAE has pre-trained in mae-vit-b_apl_in1k.py, ADE20K, with absolute
# positional labels: 32x32 = 1,024.
#   tools/dist_train.sh configs/segmentation/vit-b_apl_upernet_from-mae_ade20k.py 8
_base_ = './vit-b_upernet_from-mae_ade20k.py'

model = dict(
    type='PositionalLabelEncoderDecoder',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/mae-vit-b_apl_in1k/epoch_400.pth')),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=768, grid_size=32),
)
