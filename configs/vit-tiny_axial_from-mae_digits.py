# Fine-tuning with positional encoding and axial relative labels of the small ViT that MAE has
# pre-trained with such labels.
#   python tools/pretrain_finetune.py configs/mae-vit-tiny_axial_digits.py \
#       configs/vit-tiny_axial_from-mae_digits.py
_base_ = './vit-tiny_from-mae_digits.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/mae-vit-tiny_axial_digits/epoch_40.pth')),
    pos_head=dict(type='poslabel_mm.AxialRelativeLabelHead', in_channels=64, grid_size=6),
)
