# Fine-tuning of the small ViT that MAE has pre-trained on the digits: the
# baseline. About 40 s on one CPU core.
#   python tools/pretrain_finetune.py configs/mae-vit-tiny_digits.py \
#       configs/vit-tiny_from-mae_digits.py
_base_ = './vit-tiny_digits.py'

# The encoding starts as MAE's sine-cosine one, which a checkpoint that was
# trained without encoding leaves in place, and learns.
model = dict(
    backbone=dict(
        type='poslabel_mm.PositionalVisionTransformer',
        pos_encoding='learned_sincos',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mae-vit-tiny_digits/epoch_40.pth',
            prefix='backbone.',
        ),
    )
)
