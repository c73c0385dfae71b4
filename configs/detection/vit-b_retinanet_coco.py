# RetinaNet on the ViT-B/16 of vit-b_in1k.py, COCO: the baseline.
#   tools/dist_train.sh configs/detection/vit-b_retinanet_coco.py 8
_base_ = ['./_base_/vit-b_retinanet.py', './_base_/coco_3x.py']
