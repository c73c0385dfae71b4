# Fine-tuning of a ViT-B/16 that MAE has pre-trained, 100 epochs: the baseline.
# Table 7, row "ViT-B + MAE": 79.54.
#   tools/dist_train.sh configs/vit-b_from-mae_in1k.py 8
# or with its pre-training in one command:
#   python tools/pretrain_finetune.py configs/mae-vit-b_in1k.py \
#       configs/vit-b_from-mae_in1k.py --gpus 8
_base_ = './_base_/mae_finetune_in1k_100e.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/mae-vit-b_in1k/epoch_400.pth')))
