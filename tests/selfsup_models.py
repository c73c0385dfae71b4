"""Tiny self-supervised algorithms, and the heads they are tried with."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from models import apl_head
from torch import nn


def rpl_head(**kwargs):
    return apl_head(**kwargs) | dict(type='poslabel_mm.RelativePositionalLabelHead')


def coord_head(**kwargs):
    return apl_head(**kwargs) | dict(type='poslabel_mm.PositionRegressionHead')


def offset_head(**kwargs):
    return apl_head(**kwargs) | dict(type='poslabel_mm.OffsetRegressionHead')


def axial_head(**kwargs):
    return apl_head(**kwargs) | dict(type='poslabel_mm.AxialRelativeLabelHead')


# Named by what they call their loss and accuracy, loss_apl and apl_acc, but for those in LABELS.
HEADS = {
    'apl': apl_head,
    'rpl': rpl_head,
    'axial': axial_head,
    'coord': coord_head,
    'offset': offset_head,
}

LABELS = {kind: kind for kind in HEADS} | {'axial': 'rpl'}

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
VIT = dict(arch=ARCH, img_size=16, patch_size=4)
PIXELS = dict(type='PixelReconstructionLoss', criterion='L2')
FEATURES = dict(type='CosineSimilarityLoss', shift_factor=1.0, scale_factor=1.0)


def decoder(**kwargs):
    return (
        dict(
            type='MAEPretrainDecoder',
            num_patches=16,
            patch_size=4,
            embed_dim=16,
            decoder_embed_dim=16,
            decoder_depth=1,
            decoder_num_heads=2,
        )
        | kwargs
    )


def mae(backbone=None, **kwargs):
    """Config of MMPretrain's MAE on 16 px images, 4x4 patches."""
    return (
        dict(
            type='MAE',
            backbone=dict(type='MAEViT', mask_ratio=0.75) | VIT | (backbone or dict()),
            neck=decoder(),
            head=dict(type='MAEPretrainHead', norm_pix=True, patch_size=4, loss=PIXELS),
            init_cfg=[
                dict(type='Xavier', layer='Linear', distribution='uniform'),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ],
        )
        | kwargs
    )


class FakeCLIP(nn.Module):
    """In place of the CLIP model that some algorithms get targets from."""

    def forward(self, images):
        B = len(images)
        generator = torch.Generator().manual_seed(2)
        features = torch.rand(B, 17, 8, generator=generator)
        attention = torch.rand(B, 17, 17, generator=generator)
        return features, attention.softmax(-1)


class FakeTokenizer(nn.Module):
    """In place of DALL-E's: which of 8 visual words each patch is."""

    def forward(self, images):
        generator = torch.Generator().manual_seed(2)
        return torch.rand(len(images), 8, 4, 4, generator=generator)


class FakeQuantiser(nn.Module):
    """In place of VQ-KD's: which of 8 visual words each patch is."""

    def forward(self, images):
        generator = torch.Generator().manual_seed(2)
        return torch.randint(8, (len(images), 16), generator=generator)


def images(size=4, side=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, side, side, generator=generator)


def with_masks(shape, masked, dtype=torch.int64):
    """A sample for each image, with so many of its patches masked."""
    generator = torch.Generator().manual_seed(3)
    samples = []
    for _ in range(4):
        mask = torch.zeros(shape, dtype=dtype).flatten()
        mask[torch.randperm(mask.numel(), generator=generator)[:masked]] = 1
        samples.append(DataSample().set_mask(mask.view(shape)))
    return samples


def plain_batch(side=16):
    return images(side=side), [DataSample() for _ in range(4)]


def masked_batch():
    return images(side=28), with_masks((14, 14), 186)


def two_image_batch():
    """An image and the one that its target is made from."""
    return [images(), images(seed=5)], with_masks((4, 4), 6, torch.bool)


def simmim_batch():
    batch, samples = images(side=128), with_masks((4, 4), 9)
    for sample in samples:  # 32 px units, as masks of 4 px patches
        mask = sample.mask.repeat_interleave(8, 0).repeat_interleave(8, 1)
        sample.set_mask(mask)
    return batch, samples


def view_batch():
    return [images(), images(seed=5)], [DataSample() for _ in range(4)]


@dataclass
class Algorithm:
    """An algorithm that is trained with and without heads.

    Args:
        cfg (Callable): Makes the stock config.
        batch (Callable): Makes a batch of 4 images and its samples.
        name (str): The type that has heads.
        channels (int): Of the tokens that the heads read.
        grid (tuple[int, int]): Their grid.
        visible (int): How many of an image they read.
        passes (int): How many views there are.
        loss (str): What the stock loss is called beside theirs.
    """

    cfg: Callable
    batch: Callable
    name: str
    channels: int = 16
    grid: tuple[int, int] = (4, 4)
    visible: int = 4
    passes: int = 1
    loss: str = 'loss_recon'
    targets: Callable = field(default=lambda: None)

    def build(self, pos_head=None, seed=0, training=True):
        cfg = self.cfg()
        if pos_head is not None:
            cfg.update(type=f'poslabel_mm.{self.name}', pos_head=pos_head)
        torch.manual_seed(seed)
        model = MMPRETRAIN_MODELS.build(cfg)
        model.init_weights()
        if model.target_generator is None:
            model.target_generator = self.targets()
        return model.train(training)

    def head(self, kind, **kwargs):
        return HEADS[kind](in_channels=self.channels, grid_size=self.grid, **kwargs)


def hivit(kind, **kwargs):
    return (
        dict(
            type=kind,
            # With fewer blocks in the last stage, stock HiViT takes one of the
            # first two stages' for its output.
            arch=dict(embed_dims=32, depths=[1, 1, 7], num_heads=2),
            img_size=16,
            patch_size=4,
            inner_patches=4,
        )
        | kwargs
    )


def mae_hivit():
    cfg = mae(neck=decoder(embed_dim=32))
    # Its decoder expects a class token, which HiViT does not have; the stock
    # config lives with the first patch in its place.
    return cfg | dict(backbone=hivit('MAEHiViT', mask_ratio=0.75))


def simmim():
    return dict(
        type='SimMIM',
        backbone=dict(
            type='SimMIMSwinTransformer',
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
            img_size=128,
            stage_cfgs=dict(block_cfgs=dict(window_size=4)),
        ),
        neck=dict(type='SimMIMLinearDecoder', in_channels=64, encoder_stride=32),
        head=dict(
            type='SimMIMHead',
            patch_size=4,
            loss=dict(type='PixelReconstructionLoss', criterion='L1', channel=3),
        ),
    )


def mocov3():
    neck = dict(
        type='NonLinearNeck',
        hid_channels=8,
        out_channels=8,
        num_layers=2,
        with_bias=False,
        with_last_bn=True,
        with_last_bn_affine=False,
        with_last_bias=False,
        with_avg_pool=False,
        norm_cfg=dict(type='BN1d'),
    )
    return dict(
        type='MoCoV3',
        base_momentum=0.01,
        backbone=dict(type='MoCoV3ViT', stop_grad_conv1=True) | VIT,
        neck=neck | dict(in_channels=16),
        head=dict(
            type='MoCoV3Head',
            predictor=neck | dict(in_channels=8),
            loss=dict(type='CrossEntropyLoss', loss_weight=0.4),
            temperature=0.2,
        ),
    )


def dino(**kwargs):
    neck = dict(type='poslabel_mm.DINONeck', in_channels=16, out_channels=12, hid_channels=8)
    return (
        dict(
            type='poslabel_mm.DINO',
            backbone=dict(type='VisionTransformer') | VIT,
            neck=neck | dict(bottleneck_channels=6, freeze_last_layer=0),
            head=dict(type='poslabel_mm.DINOHead', out_channels=12),
        )
        | kwargs
    )


def ibot(**kwargs):
    cfg = dino(type='poslabel_mm.IBOT')
    cfg['backbone'] |= dict(out_type='raw')
    return cfg | dict(patch_head=dict(type='poslabel_mm.IBOTHead', out_channels=12)) | kwargs


def igpt(**kwargs):
    backbone = dict(type='poslabel_mm.CausalVisionTransformer') | VIT | kwargs
    neck = dict(type='LinearNeck', in_channels=16, out_channels=48, norm_cfg=None)
    return dict(type='poslabel_mm.IGPT', backbone=backbone, neck=neck, head=mae()['head'])


def mff():
    return mae() | dict(
        type='MFF', backbone=dict(type='MFFViT', mask_ratio=0.75, out_indices=[0, 1]) | VIT
    )


def eva():
    return mae() | dict(
        type='EVA', neck=decoder(predict_feature_dim=8), head=dict(type='MIMHead', loss=FEATURES)
    )


def milan():
    return eva() | dict(
        type='MILAN',
        backbone=dict(type='MILANViT', mask_ratio=0.75) | VIT,
        neck=decoder(type='MILANPretrainDecoder', predict_feature_dim=8),
    )


def beit():
    return dict(
        type='BEiT',
        backbone=dict(
            type='BEiTPretrainViT', final_norm=True, layer_scale_init_value=0.1, drop_path_rate=0.1
        )
        | VIT,
        head=dict(
            type='BEiTV1Head', embed_dims=16, num_embed=8, loss=dict(type='CrossEntropyLoss')
        ),
    )


def beitv2():
    cfg = beit()
    # Its final norm is the neck's.
    cfg['backbone'].update(final_norm=False, out_indices=[0, 1])
    return cfg | dict(
        neck=dict(
            type='BEiTV2Neck', num_layers=1, early_layers=1, backbone_arch=ARCH | dict(depth=2)
        ),
        head=dict(
            type='BEiTV2Head', embed_dims=16, num_embed=8, loss=dict(type='CrossEntropyLoss')
        ),
    )


def maskfeat():
    return dict(
        type='MaskFeat',
        # Its targets want 14x14 patches.
        backbone=dict(type='MaskFeatViT', arch=ARCH, img_size=28, patch_size=2),
        neck=dict(type='LinearNeck', in_channels=16, out_channels=27, gap_dim=0),
        head=dict(type='MIMHead', loss=PIXELS),
        target_generator=dict(type='HOGGenerator', nbins=9, pool=2, gaussian_window=4),
    )


def cae():
    return dict(
        type='CAE',
        backbone=dict(type='CAEPretrainViT', layer_scale_init_value=0.1) | VIT,
        neck=dict(
            type='CAENeck',
            num_classes=8,
            mask_tokens_num=6,
            embed_dims=16,
            num_heads=2,
            regressor_depth=1,
            decoder_depth=1,
            mlp_ratio=2,
            layer_scale_init_value=0.1,
        ),
        head=dict(type='CAEHead', loss=dict(type='CAELoss', lambd=2)),
    )


def mixmim():
    return dict(
        type='MixMIM',
        backbone=dict(
            type='MixMIMPretrainTransformer',
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
            img_size=128,
            window_size=[4, 4, 4, 4],
        ),
        neck=dict(
            type='MixMIMPretrainDecoder',
            num_patches=16,
            encoder_stride=32,
            embed_dim=64,
            decoder_embed_dim=16,
            decoder_depth=1,
            decoder_num_heads=2,
        ),
        head=dict(type='MixMIMPretrainHead', norm_pix=True, loss=PIXELS),
    )


def itpn():
    return dict(
        type='iTPN',
        backbone=hivit('iTPNHiViT', mask_ratio=0.75, reconstruction_type='pixel'),
        neck=dict(
            type='iTPNPretrainDecoder',
            num_patches=16,
            patch_size=4,
            embed_dim=32,
            decoder_embed_dim=16,
            decoder_depth=1,
            decoder_num_heads=2,
            mlp_ratio=2.0,
            reconstruction_type='pixel',
            fpn_dim=16,
            fpn_depth=1,
            num_outs=3,
        ),
        head=dict(type='MAEPretrainHead', norm_pix=True, patch_size=4, loss=PIXELS),
    )


def itpn_clip():
    cfg = itpn()
    for part in 'backbone', 'neck':
        cfg[part]['reconstruction_type'] = 'clip'
    cfg['neck']['decoder_embed_dim'] = 32
    return cfg | dict(head=dict(type='iTPNClipHead', embed_dims=32, num_embed=8, loss=FEATURES))


ALGORITHMS = {
    'MAE': Algorithm(mae, plain_batch, 'PositionalLabelMAE'),
    'MAE-HiViT': Algorithm(mae_hivit, plain_batch, 'PositionalLabelMAE', channels=32),
    'SimMIM': Algorithm(simmim, simmim_batch, 'PositionalLabelSimMIM', channels=64, visible=7),
    'MoCo v3': Algorithm(
        mocov3, view_batch, 'PositionalLabelMoCoV3', visible=16, passes=2, loss='loss_view'
    ),
    'DINO': Algorithm(
        dino, view_batch, 'PositionalLabelDINO', visible=16, passes=2, loss='loss_view'
    ),
    'iBOT': Algorithm(
        ibot, view_batch, 'PositionalLabelIBOT', visible=16, passes=2, loss='loss_view'
    ),
    'iGPT': Algorithm(igpt, plain_batch, 'PositionalLabelIGPT', visible=16),
    'MFF': Algorithm(mff, plain_batch, 'PositionalLabelMFF'),
    'EVA': Algorithm(eva, plain_batch, 'PositionalLabelEVA', targets=FakeCLIP),
    'MILAN': Algorithm(milan, plain_batch, 'PositionalLabelMILAN', targets=FakeCLIP),
    'BEiT': Algorithm(
        beit, two_image_batch, 'PositionalLabelBEiT', visible=10, targets=FakeTokenizer
    ),
    'BEiT v2': Algorithm(
        beitv2,
        two_image_batch,
        'PositionalLabelBEiT',
        visible=10,
        loss='loss_1',
        targets=FakeQuantiser,
    ),
    'MaskFeat': Algorithm(
        maskfeat, masked_batch, 'PositionalLabelMaskFeat', grid=(14, 14), visible=10
    ),
    'CAE': Algorithm(
        cae, two_image_batch, 'PositionalLabelCAE', visible=10, targets=FakeTokenizer
    ),
    'MixMIM': Algorithm(
        mixmim, lambda: plain_batch(128), 'PositionalLabelMixMIM', channels=64, visible=16
    ),
    'iTPN': Algorithm(itpn, plain_batch, 'PositionalLabelITPN', channels=32),
    'iTPN-CLIP': Algorithm(
        itpn_clip,
        two_image_batch,
        'PositionalLabelITPN',
        channels=32,
        visible=10,
        targets=FakeCLIP,
    ),
}
