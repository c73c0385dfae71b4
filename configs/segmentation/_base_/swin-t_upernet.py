# UPerNet on the four stages of the modified Swin-T: H/4, H/8, H/16 and H/16; crops of 512x512.
_base_ = 'mmseg::_base_/models/upernet_swin.py'

data_preprocessor = dict(size=(512, 512))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='poslabel_mm.PositionalSwinTransformer',
        arch='tiny',
        pos_encoding='cpe',
        last_downsample=False,
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/swin-t_in1k/epoch_300.pth', prefix='backbone.'
        ),
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
