# RetinaNet on the modified Swin-T of swin-t_in1k.py, COCO: the baseline.
#   tools/dist_train.sh configs/detection/swin-t_retinanet_coco.py 8
_base_ = ['./_base_/swin-t_retinanet.py', './_base_/coco_3x.py']
