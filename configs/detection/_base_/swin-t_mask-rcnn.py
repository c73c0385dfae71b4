# Mask R-CNN on the modified Swin-T. Its third and fourth stage are both at H/16: the pyramid takes
# the fourth, and makes the maps at H/32 and H/64 from it.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='poslabel_mm.PositionalSwinTransformer',
        arch='tiny',
        pos_encoding='cpe',
        last_downsample=False,
        pad_small_map=True,
        drop_path_rate=0.2,
        out_indices=(0, 1, 3),
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/swin-t_in1k/epoch_300.pth', prefix='backbone.'
        ),
    ),
    neck=dict(in_channels=[96, 192, 768]),
)
