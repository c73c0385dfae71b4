# MAE pre-training of ViT-B/16, 400 epochs: the baseline.
# Table 7, row "ViT-B + MAE", the first half; vit-b_from-mae_in1k.py is
# the second.
#   tools/dist_train.sh configs/mae-vit-b_in1k.py 8
_base_ = './_base_/mae_in1k_400e.py'
