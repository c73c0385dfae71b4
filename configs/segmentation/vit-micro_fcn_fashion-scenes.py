# FCN on the ViT of vit-micro_imagenette.py, scenes of Fashion-MNIST's garments: the baseline.
#   python tools/train.py configs/segmentation/vit-micro_fcn_fashion-scenes.py
_base_ = './_base_/fashion_mnist_scenes.py'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=192),
        img_size=64,
        patch_size=8,
        out_type='featmap',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/vit-micro_imagenette/epoch_8.pth',
            prefix='backbone.',
        ),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=96,
        in_index=0,
        channels=96,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        align_corners=False,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
