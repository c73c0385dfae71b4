# Mask R-CNN on the ViT-B/16 that MAE has pre-trained in mae-vit-b_in1k.py, COCO: the baseline.
#   tools/dist_train.sh configs/detection/vit-b_mask-rcnn_from-mae_coco.py 8
_base_ = './vit-b_mask-rcnn_coco.py'

# The encoding starts as MAE's sine-cosine one, and learns.
model = dict(
    backbone=dict(
        type='poslabel_mm.PositionalVisionTransformer',
        pos_encoding='learned_sincos',
        init_cfg=dict(checkpoint='work_dirs/mae-vit-b_in1k/epoch_400.pth'),
    )
)
