"""A small configuration of every transformer backbone of MMPretrain.

Strides and patch sizes are the published models', so that the patch grid
scales with the image; widths and depths are as small as they go. Images have
64 px a side unless `size` says otherwise.
"""

from models import NUM_CLASSES

try:
    from timm.models import register_model
    from timm.models.nest import Nest
except ImportError:
    pass
else:

    @register_model
    def nest_test(in_chans, img_size, **_):
        """timm's NesT; its named ones have millions of parameters."""
        return Nest(
            img_size, in_chans, embed_dims=(16, 32, 64), num_heads=(1, 2, 4), depths=(1, 1, 1)
        )


PLAIN = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=64
)
POOLING = dict(type='GlobalAveragePooling')
STAGES = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4])
TWINS = dict(
    embed_dims=[8, 8, 16, 16],
    depths=[1, 1, 1, 2],
    num_heads=[1, 1, 2, 2],
    patch_sizes=[4, 2, 2, 2],
    strides=[4, 2, 2, 2],
    mlp_ratios=[2, 2, 2, 2],
    sr_ratios=[8, 4, 2, 1],
)
POOL = dict(
    layers=[1, 1, 1, 1],
    embed_dims=[8, 12, 16, 24],
    mlp_ratios=[2, 2, 2, 2],
    layer_scale_init_value=1e-5,
)


def _linear(channels):
    return dict(type='LinearClsHead', num_classes=NUM_CLASSES, in_channels=channels)


def _case(channels, size=64, neck=None, head=None, **backbone):
    """Backbone and head of a stock classifier, its tokens' width, its input."""
    return dict(
        channels=channels,
        size=size,
        model=dict(backbone=backbone, neck=neck, head=head or _linear(channels)),
    )


TRANSFORMERS = dict(
    VisionTransformer=_case(16, **PLAIN, patch_size=16),
    DistilledVisionTransformer=_case(
        16,
        head=dict(type='DeiTClsHead', num_classes=NUM_CLASSES, in_channels=16),
        **PLAIN,
        patch_size=16,
    ),
    DeiT3=_case(16, **PLAIN, patch_size=16),
    BEiTViT=_case(16, **PLAIN, patch_size=16),
    ViTEVA02=_case(16, **PLAIN, patch_size=16),
    ViTSAM=_case(
        16,
        **PLAIN | dict(arch=PLAIN['arch'] | dict(global_attn_indexes=[1])),
        patch_size=16,
        out_channels=16,
        out_type='avg_featmap',
        window_size=2,
    ),
    RevVisionTransformer=_case(32, **PLAIN, patch_size=16),
    T2T_ViT=_case(
        16,
        img_size=64,
        embed_dims=16,
        num_layers=2,
        t2t_cfg=dict(token_dims=8, use_performer=False),
        layer_cfgs=dict(num_heads=2, feedforward_channels=32),
    ),
    XCiT=_case(
        16, img_size=64, patch_size=16, embed_dims=16, depth=2, cls_attn_layers=1, num_heads=2
    ),
    TNT=_case(
        16,
        img_size=64,
        arch=dict(
            embed_dims_outer=16,
            embed_dims_inner=8,
            num_layers=2,
            num_heads_outer=2,
            num_heads_inner=2,
        ),
    ),
    Conformer=_case(
        16,
        head=dict(type='ConformerHead', num_classes=NUM_CLASSES, in_channels=[64, 16]),
        arch=dict(embed_dims=16, channel_ratio=1, num_heads=2, depths=3),
        base_channels=16,
    ),
    HiViT=_case(
        16,
        neck=POOLING,
        arch=dict(embed_dims=16, depths=[1, 1, 8], num_heads=2),
        img_size=64,
        out_indices=[7],
    ),
    SwinTransformer=_case(64, neck=POOLING, arch=STAGES, img_size=64, window_size=2),
    SwinTransformerV2=_case(
        64,
        neck=POOLING,
        arch=STAGES | dict(extra_norm_every_n_blocks=0),
        img_size=64,
        window_size=2,
    ),
    DaViT=_case(64, neck=POOLING, arch=STAGES, window_size=2),
    PCPVT=_case(16, neck=POOLING, arch=TWINS),
    SVT=_case(16, neck=POOLING, arch=TWINS | dict(window_sizes=[2, 2, 2, 2])),
    MViT=_case(
        64,
        neck=POOLING,
        arch=dict(embed_dims=8, num_layers=4, num_heads=1, downscale_indices=[1, 2, 3]),
        img_size=64,
    ),
    MixMIMTransformer=_case(64, arch=STAGES, img_size=64, window_size=[4, 4, 4, 2]),
    # It takes none but its own architectures.
    LeViT=_case(
        384,
        size=128,
        head=dict(
            type='LeViTClsHead', num_classes=NUM_CLASSES, in_channels=384, distillation=False
        ),
        neck=POOLING,
        arch='128s',
        img_size=128,
    ),
    TinyViT=_case(
        64,
        arch=dict(channels=[8, 16, 32, 64], depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4]),
        img_size=(64, 64),
        window_size=[2, 2, 2, 2],
    ),
    MobileViT=_case(
        64,
        neck=POOLING,
        arch=[
            ['mobilenetv2', 8, 1, 1, 2],
            ['mobilenetv2', 8, 2, 1, 2],
            ['mobilevit', 8, 2, 16, 32, 1, 2],
            ['mobilevit', 12, 2, 16, 32, 1, 2],
            ['mobilevit', 16, 2, 16, 32, 1, 2],
        ],
    ),
    EdgeNeXt=_case(
        16, arch=dict(channels=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])
    ),
    PoolFormer=_case(24, neck=POOLING, arch=POOL),
    RIFormer=_case(24, neck=POOLING, arch=POOL),
    VAN=_case(
        32,
        neck=POOLING,
        arch=dict(embed_dims=[8, 8, 16, 32], depths=[1, 1, 1, 1], ffn_ratios=[2, 2, 2, 2]),
    ),
    EfficientFormer=_case(
        16,
        size=224,
        neck=POOLING | dict(dim=1),
        head=dict(
            type='EfficientFormerClsHead',
            num_classes=NUM_CLASSES,
            in_channels=16,
            distillation=False,
        ),
        arch=dict(
            layers=[1, 1, 1, 2],
            embed_dims=[8, 8, 16, 16],
            downsamples=[False, True, True, True],
            vit_num=1,
        ),
    ),
)

# CNNs and an MLP whose tokens need an entry of their own, and ResNet for all
# those that return a feature map.
OTHERS = dict(
    ResNet=_case(64, neck=POOLING, depth=18, base_channels=8, stem_channels=8),
    ConvNeXt=_case(16, arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16])),
    HorNet=_case(
        64,
        arch=dict(
            base_dim=8,
            depths=[1, 1, 1, 1],
            orders=[2, 3, 3, 3],
            dw_cfg=[dict(type='DW', kernel_size=7)] * 4,
        ),
    ),
    MlpMixer=_case(
        16,
        neck=POOLING | dict(dim=1),
        arch=dict(embed_dims=16, num_layers=2, tokens_mlp_dims=16, channels_mlp_dims=32),
        img_size=64,
        patch_size=16,
    ),
)

# From another library.
TIMM = {
    'TIMMBackbone, NesT': _case(64, neck=POOLING, model_name='nest_test', img_size=64),
    'TIMMBackbone, ViT': _case(
        32,
        # MMPretrain has no neck that averages tokens which are not a map: this
        # one averages their channels, 17 values an image.
        neck=POOLING | dict(dim=1),
        head=_linear(17),
        model_name='vit_tiny_patch16_224',
        embed_dim=32,
        num_heads=2,
        depth=2,
        img_size=64,
        dynamic_img_size=True,
    ),
}

for _cases in (TRANSFORMERS, OTHERS, TIMM):
    for _name, _value in _cases.items():
        _value['model']['backbone']['type'] = _name.split(',')[0]

WITHOUT_GRID = dict(
    AlexNet=dict(type='AlexNet', num_classes=NUM_CLASSES),
    LeNet5=dict(type='LeNet5', num_classes=NUM_CLASSES),
    VGG=dict(type='VGG', depth=11, num_classes=NUM_CLASSES),
    InceptionV3=dict(type='InceptionV3', num_classes=NUM_CLASSES),
)

# Convolutions, MLPs and graphs.
NO_TRANSFORMERS = {
    'AlexNet',
    'CSPDarkNet',
    'CSPResNeXt',
    'CSPResNet',
    'ConvMixer',
    'DenseNet',
    'EfficientNet',
    'EfficientNetV2',
    'HRNet',
    'InceptionV3',
    'LeNet5',
    'MobileNetV2',
    'MobileNetV3',
    'MobileOne',
    'PyramidVig',
    'RegNet',
    'RepLKNet',
    'RepMLPNet',
    'RepVGG',
    'Res2Net',
    'ResNeSt',
    'ResNeXt',
    'ResNetV1c',
    'ResNetV1d',
    'ResNet_CIFAR',
    'SEResNeXt',
    'SEResNet',
    'ShuffleNetV1',
    'ShuffleNetV2',
    'SparseConvNeXt',
    'SparseResNet',
    'VGG',
    'Vig',
}

# Backbones that take images of one size alone, by their position embeddings
# or attention biases; those that can be built for another shape have it here.
FIXED_SIZE = dict(
    BEiTViT=(64, 96),
    TNT=(64, 96),
    # 32 px times the window of its last stage.
    MixMIMTransformer=(64, 128),
    TinyViT=(64, 96),
    MlpMixer=(64, 96),
)
# They cannot be built for anything but a square: LeViT and NesT know one side
# alone, EfficientFormer has the biases of a square of `resolution`.
SQUARE = ('LeViT', 'EfficientFormer', 'TIMMBackbone, NesT')
# They compute a Fourier encoding in float32, whatever the model's dtype.
FLOAT32 = ('XCiT', 'EdgeNeXt')
