# Fine-tuning with positional encoding and absolute labels of the small ViT that MAE has
# pre-trained with such labels.
#   python tools/pretrain_finetune.py configs/mae-vit-micro_apl_imagenette.py \
#       configs/vit-micro_apl_from-mae_imagenette.py
_base_ = './vit-micro_from-mae_imagenette.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/mae-vit-micro_apl_imagenette/epoch_16.pth')),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=96, grid_size=8),
)
