# COCO as MMDetection trains it for 36 epochs (12 in which each image comes three times), but with
# AdamW: 8 GPUs x 2 images, the shorter side of 640 to 800 pixels, the longer one of 1,333 at most.
_base_ = 'mmdet::common/ms_3x_coco.py'

custom_imports = dict(imports=['poslabel_mm.mmdet'])

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'pos_embed': dict(decay_mult=0.0),
            'cls_token': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
        },
    ),
)
