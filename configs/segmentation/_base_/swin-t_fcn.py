# FCN on the last stage of the modified Swin-T, which is at H/16; crops of 512x512.
_base_ = 'mmseg::_base_/models/fcn_r50-d8.py'

data_preprocessor = dict(size=(512, 512))
model = dict(
    pretrained=None,
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='poslabel_mm.PositionalSwinTransformer',
        arch='tiny',
        pos_encoding='cpe',
        last_downsample=False,
        drop_path_rate=0.2,
        out_indices=(3,),
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/swin-t_in1k/epoch_300.pth', prefix='backbone.'
        ),
    ),
    decode_head=dict(in_channels=768, in_index=0, num_classes=150),
    auxiliary_head=None,
)
