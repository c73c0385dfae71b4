# UPerNet on four layers of a ViT-B/16, crops of 512x512.
_base_ = 'mmseg::_base_/models/upernet_vit-b16_ln_mln.py'

data_preprocessor = dict(size=(512, 512))
model = dict(
    pretrained=None,
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='b',
        img_size=(512, 512),
        patch_size=16,
        drop_path_rate=0.1,
        out_type='featmap',
        out_indices=[2, 5, 8, 11],
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/vit-b_in1k/epoch_300.pth', prefix='backbone.'
        ),
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
