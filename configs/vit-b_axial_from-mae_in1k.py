# Fine-tuning with positional encoding and axial relative labels of a ViT-B/16 that MAE has
# pre-trained with such labels. No row of the paper.
#   python tools/pretrain_finetune.py configs/mae-vit-b_axial_in1k.py \
#       configs/vit-b_axial_from-mae_in1k.py --gpus 8
_base_ = './vit-b_from-mae_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/mae-vit-b_axial_in1k/epoch_400.pth')),
    pos_head=dict(type='poslabel_mm.AxialRelativeLabelHead', in_channels=768, grid_size=14),
)
