# RetinaNet on a ViT-B/16, with the pyramid of ViTDet. The encoding of 14x14 patches is resized to
# those of every batch. The rest of its recipe is not here: docs/detection.md lists what differs.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch='b',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type='featmap',
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/vit-b_in1k/epoch_300.pth', prefix='backbone.'
        ),
    ),
    neck=dict(
        _delete_=True,
        type='poslabel_mm.SimpleFeaturePyramid',
        in_channels=768,
        out_channels=256,
        scales=(2, 1, 0.5),
        num_outs=5,
    ),
)
