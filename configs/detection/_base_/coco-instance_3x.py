# As coco_3x.py, with the masks of the objects.
_base_ = 'mmdet::common/ms_3x_coco-instance.py'

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

val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
