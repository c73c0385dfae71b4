# Mask R-CNN on the ViT-B/16 of vit-b_in1k.py, COCO: the baseline.
#   tools/dist_train.sh configs/detection/vit-b_mask-rcnn_coco.py 8
_base_ = ['./_base_/vit-b_mask-rcnn.py', './_base_/coco-instance_3x.py']
