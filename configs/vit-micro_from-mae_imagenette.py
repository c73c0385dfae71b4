# Fine-tuning of the ViT of vit-micro_imagenette.py, with its recipe, that MAE has pre-trained: the
# baseline.
#   python tools/pretrain_finetune.py configs/mae-vit-micro_imagenette.py \
#       configs/vit-micro_from-mae_imagenette.py
_base_ = './vit-micro_imagenette.py'

# The encoding starts as MAE's sine-cosine one, which a checkpoint that was trained without
# encoding leaves in place, and learns.
model = dict(
    backbone=dict(
        type='poslabel_mm.PositionalVisionTransformer',
        pos_encoding='learned_sincos',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mae-vit-micro_imagenette/epoch_16.pth',
            prefix='backbone.',
        ),
    )
)
