# Mask R-CNN on the ViT-B/16 of vit-b_apl_in1k.py, COCO, with absolute
# positional labels: the places of a 25x25 grid laid over each image.
#   tools/dist_train.sh configs/detection/vit-b_apl_mask-rcnn_coco.py 8
_base_ = './vit-b_mask-rcnn_coco.py'

model = dict(
    type='PositionalLabelTwoStageDetector',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/vit-b_apl_in1k/epoch_300.pth')),
    pos_head=dict(
        type='poslabel_mm.PositionalLabelHead',
        in_channels=768,
        grid_size=25,
        on_grid_mismatch='rescale',
    ),
)
