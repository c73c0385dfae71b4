# FCN on the last tokens of a ViT-B/16, crops of 512x512.
_base_ = 'mmseg::_base_/models/fcn_r50-d8.py'

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
        out_indices=[11],
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/vit-b_in1k/epoch_300.pth', prefix='backbone.'
        ),
    ),
    decode_head=dict(in_channels=768, in_index=0, num_classes=150),
    auxiliary_head=None,
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
