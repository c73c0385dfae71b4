# Mask R-CNN on the modified Swin-T of swin-t_in1k.py, COCO: the baseline.
#   tools/dist_train.sh configs/detection/swin-t_mask-rcnn_coco.py 8
_base_ = ['./_base_/swin-t_mask-rcnn.py', './_base_/coco-instance_3x.py']
