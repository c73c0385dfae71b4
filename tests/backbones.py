"""A small configuration of every transformer backbone of MMPretrain.

Strides and patch sizes are the published models', so that the patch grid
scales with the image; widths and depths are as small as they go. Images have
64 px a side unless `size` says otherwise.
"""
from models import NUM_CLASSES

PLAIN = dict(
    arch=dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=64)
POOLING = dict(type='GlobalAveragePooling')
STAGES = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4])
TWINS = dict(
    embed_dims=[8, 8, 16, 16],
    depths=[1, 1, 1, 2],
    num_heads=[1, 1, 2, 2],
    patch_sizes=[4, 2, 2, 2],
    strides=[4, 2, 2, 2],
    mlp_ratios=[2, 2, 2, 2],
    sr_ratios=[8, 4, 2, 1])
POOL = dict(
    layers=[1, 1, 1, 1],
    embed_dims=[8, 12, 16, 24],
    mlp_ratios=[2, 2, 2, 2],
    layer_scale_init_value=1e-5)


def _linear(channels):
    return dict(
        type='LinearClsHead', num_classes=NUM_CLASSES, in_channels=channels)


def _case(channels, size=64, lr=1e-2, neck=None, head=None, **backbone):
    """Backbone and head of a stock classifier, its tokens' width, its input."""
    return dict(
        channels=channels,
        size=size,
        lr=lr,
        model=dict(
            backbone=backbone,
            neck=neck,
            head=head or _linear(channels)))


TRANSFORMERS = dict(
    VisionTransformer=_case(16, **PLAIN, patch_size=16),
    DistilledVisionTransformer=_case(
        16,
        head=dict(
            type='DeiTClsHead', num_classes=NUM_CLASSES, in_channels=16),
        **PLAIN,
        patch_size=16),
    DeiT3=_case(16, **PLAIN, patch_size=16),
    BEiTViT=_case(16, **PLAIN, patch_size=16),
    ViTEVA02=_case(16, **PLAIN, patch_size=16),
    ViTSAM=_case(
        16,
        **PLAIN | dict(arch=PLAIN['arch'] | dict(global_attn_indexes=[1])),
        patch_size=16,
        out_channels=16,
        out_type='avg_featmap',
        window_size=2),
    RevVisionTransformer=_case(32, **PLAIN, patch_size=16),
    T2T_ViT=_case(
        16,
        img_size=64,
        embed_dims=16,
        num_layers=2,
        t2t_cfg=dict(token_dims=8, use_performer=False),
        layer_cfgs=dict(num_heads=2, feedforward_channels=32)),
    XCiT=_case(
        16,
        img_size=64,
        patch_size=16,
        embed_dims=16,
        depth=2,
        cls_attn_layers=1,
        num_heads=2),
    TNT=_case(
        16,
        img_size=64,
        arch=dict(
            embed_dims_outer=16,
            embed_dims_inner=8,
            num_layers=2,
            num_heads_outer=2,
            num_heads_inner=2)),
    Conformer=_case(
        16,
        head=dict(
            type='ConformerHead',
            num_classes=NUM_CLASSES,
            in_channels=[64, 16]),
        arch=dict(embed_dims=16, channel_ratio=1, num_heads=2, depths=3),
        base_channels=16),
    HiViT=_case(
        16,
        neck=POOLING,
        arch=dict(embed_dims=16, depths=[1, 1, 8], num_heads=2),
        img_size=64,
        out_indices=[7]),
    SwinTransformer=_case(
        64, neck=POOLING, arch=STAGES, img_size=64, window_size=2),
    SwinTransformerV2=_case(
        64,
        neck=POOLING,
        arch=STAGES | dict(extra_norm_every_n_blocks=0),
        img_size=64,
        window_size=2),
    DaViT=_case(64, neck=POOLING, arch=STAGES, window_size=2),
    PCPVT=_case(16, neck=POOLING, arch=TWINS),
    SVT=_case(
        16, neck=POOLING, arch=TWINS | dict(window_sizes=[2, 2, 2, 2])),
    MViT=_case(
        64,
        neck=POOLING,
        arch=dict(
            embed_dims=8, num_layers=4, num_heads=1,
            downscale_indices=[1, 2, 3]),
        img_size=64),
    MixMIMTransformer=_case(
        64, arch=STAGES, img_size=64, window_size=[4, 4, 4, 2]),
    # It takes none but its own architectures.
    LeViT=_case(
        384,
        size=128,
        head=dict(
            type='LeViTClsHead',
            num_classes=NUM_CLASSES,
            in_channels=384,
            distillation=False),
        neck=POOLING,
        arch='128s',
        img_size=128),
    TinyViT=_case(
        64,
        arch=dict(
            channels=[8, 16, 32, 64],
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4]),
        img_size=(64, 64),
        window_size=[2, 2, 2, 2]),
    MobileViT=_case(
        64,
        neck=POOLING,
        arch=[
            ['mobilenetv2', 8, 1, 1, 2],
            ['mobilenetv2', 8, 2, 1, 2],
            ['mobilevit', 8, 2, 16, 32, 1, 2],
            ['mobilevit', 12, 2, 16, 32, 1, 2],
            ['mobilevit', 16, 2, 16, 32, 1, 2],
        ]),
    EdgeNeXt=_case(
        16,
        arch=dict(
            channels=[8, 8, 16, 16], depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2])),
    PoolFormer=_case(24, neck=POOLING, arch=POOL),
    RIFormer=_case(24, neck=POOLING, arch=POOL),
    VAN=_case(
        32,
        neck=POOLING,
        arch=dict(
            embed_dims=[8, 8, 16, 32],
            depths=[1, 1, 1, 1],
            ffn_ratios=[2, 2, 2, 2])),
    EfficientFormer=_case(
        16,
        size=224,
        neck=POOLING | dict(dim=1),
        head=dict(
            type='EfficientFormerClsHead',
            num_classes=NUM_CLASSES,
            in_channels=16,
            distillation=False),
        arch=dict(
            layers=[1, 1, 1, 2],
            embed_dims=[8, 8, 16, 16],
            downsamples=[False, True, True, True],
            vit_num=1)),
)

# Two CNNs and a backbone from another library.
OTHERS = dict(
    ResNet=_case(
        64, neck=POOLING, depth=18, base_channels=8, stem_channels=8),
    ConvNeXt=_case(
        16, arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16])),
)
NEST = _case(
    384,
    lr=1e-3,
    neck=POOLING,
    model_name='nest_tiny',
    img_size=64)

for _cases in (TRANSFORMERS, OTHERS):
    for _name, _value in _cases.items():
        _value['model']['backbone']['type'] = _name
NEST['model']['backbone']['type'] = 'TIMMBackbone'

WITHOUT_GRID = dict(
    AlexNet=dict(type='AlexNet', num_classes=NUM_CLASSES),
    LeNet5=dict(type='LeNet5', num_classes=NUM_CLASSES),
    VGG=dict(type='VGG', depth=11, num_classes=NUM_CLASSES),
    InceptionV3=dict(type='InceptionV3', num_classes=NUM_CLASSES))

# Convolutions, MLPs and graphs.
NO_TRANSFORMERS = {
    'AlexNet', 'CSPDarkNet', 'CSPResNeXt', 'CSPResNet', 'ConvMixer',
    'DenseNet', 'EfficientNet', 'EfficientNetV2', 'HRNet', 'HorNet',
    'InceptionV3', 'LeNet5', 'MlpMixer', 'MobileNetV2', 'MobileNetV3',
    'MobileOne', 'PyramidVig', 'RegNet', 'RepLKNet', 'RepMLPNet', 'RepVGG',
    'Res2Net', 'ResNeSt', 'ResNeXt', 'ResNetV1c', 'ResNetV1d',
    'ResNet_CIFAR', 'SEResNeXt', 'SEResNet', 'ShuffleNetV1', 'ShuffleNetV2',
    'SparseConvNeXt', 'SparseResNet', 'VGG', 'Vig'
}
