# Fine-tuning with positional encoding and relative positional labels of a
# ViT-B/16 that MAE has pre-trained with such labels.
# Table 7, row "ViT-B + MAE + RPL": 80.21.
#   tools/dist_train.sh configs/vit-b_rpl_from-mae_in1k.py 8
# or with its pre-training in one command:
#   python tools/pretrain_finetune.py configs/mae-vit-b_rpl_in1k.py \
#       configs/vit-b_rpl_from-mae_in1k.py --gpus 8
_base_ = './vit-b_from-mae_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/mae-vit-b_rpl_in1k/epoch_400.pth')),
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
