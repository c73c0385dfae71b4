"""Tiny models that several test files share."""

import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

EMBED_DIMS = 16
NUM_CLASSES = 3
GRID = (4, 4)


def tiny_vit(**kwargs):
    """A 2-layer ViT on 16 px images, 4x4 patches."""
    return (
        dict(
            type='VisionTransformer',
            arch=dict(embed_dims=EMBED_DIMS, num_layers=2, num_heads=2, feedforward_channels=32),
            img_size=16,
            patch_size=4,
        )
        | kwargs
    )


def apl_head(**kwargs):
    return (
        dict(type='poslabel_mm.PositionalLabelHead', in_channels=EMBED_DIMS, grid_size=GRID)
        | kwargs
    )


def classifier(pos_head=None, backbone=None, **kwargs):
    """Config of a stock classifier, or of a labelled one with `pos_head`."""
    cfg = (
        dict(
            type='ImageClassifier',
            backbone=backbone or tiny_vit(),
            head=dict(type='LinearClsHead', num_classes=NUM_CLASSES, in_channels=EMBED_DIMS),
        )
        | kwargs
    )
    if pos_head is not None:
        cfg.update(type='poslabel_mm.PositionalLabelClassifier', pos_head=pos_head)
    return cfg


def build(cfg, seed=0, training=True):
    """Build and initialise as the Runner does."""
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    model.init_weights()
    model.train(training)
    return model


def batch(size=2, height=16, width=16):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, height, width, generator=generator)
    samples = [DataSample().set_gt_label(i % NUM_CLASSES) for i in range(size)]
    return images, samples
