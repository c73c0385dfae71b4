# RetinaNet on the modified Swin-T of swin-t_apl_in1k.py, COCO, with absolute
# positional labels: the places of a 25x25 grid laid over each image.
#   tools/dist_train.sh configs/detection/swin-t_apl_retinanet_coco.py 8
_base_ = './swin-t_retinanet_coco.py'

model = dict(
    type='PositionalLabelSingleStageDetector',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/swin-t_apl_in1k/epoch_300.pth')),
    pos_head=dict(
        type='poslabel_mm.PositionalLabelHead',
        in_channels=768,
        grid_size=25,
        on_grid_mismatch='rescale',
    ),
)
