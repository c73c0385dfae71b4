"""The shipped configs' heads fit the tokens that their backbones give.

One block a stage: widths, strides and grids do not depend on the depth.
"""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from models import build

from poslabel_mm.models import PatchTokenNeck
from poslabel_mm.tokens import PatchTokenReader

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
VIT = dict(embed_dims=768, num_layers=1, num_heads=12, feedforward_channels=3072)
ARCHS = {
    'tiny': dict(embed_dims=96, depths=[1, 1, 1, 1], num_heads=[3, 6, 12, 24]),
    'base': dict(embed_dims=128, depths=[1, 1, 1, 1], num_heads=[4, 8, 16, 32]),
    'b': VIT,
    'deit-base': VIT,
}
HEADS = dict(
    apl='PositionalLabelHead',
    rpl='RelativePositionalLabelHead',
    coord='PositionRegressionHead',
    offset='OffsetRegressionHead',
    axial='AxialRelativeLabelHead',
)
# Other data and flips, and MAE, leave the model or its tokens as they are.
LABELLED = sorted(
    path.stem
    for label in HEADS
    for path in CONFIGS.glob(f'*_{label}[-_]*in1k.py')
    if 'mae' not in path.stem and 'flip' not in path.stem
)


def load(name):
    return Config.fromfile(str(CONFIGS / f'{name}.py'))


def shallow(model):
    if model.backbone.type == 'TIMMBackbone':
        pytest.importorskip('timm')
    else:
        model.backbone.arch = ARCHS[model.backbone.arch]
    return model


@pytest.mark.parametrize('name', LABELLED)
def test_heads_fit_the_tokens(name):
    model = shallow(load(name).model)
    backbone = build(model.backbone, training=False)
    neck = model.get('pos_neck') and PatchTokenNeck(model.pos_neck.stage)
    reader = PatchTokenReader(backbone, neck and neck.stage)
    size = 384 if '384px' in name else 224
    with torch.no_grad(), reader:
        out = backbone(torch.zeros(1, 3, size, size))[-1]
    tokens, grid_shape, _ = reader.take()
    head = model.pos_head
    assert grid_shape == (head.grid_size, head.grid_size)
    assert grid_shape == (size // 16, size // 16)
    assert tokens.shape == (1, head.grid_size**2, head.in_channels)
    (expected,) = [HEADS[label] for label in HEADS if f'_{label}' in name]
    assert head.type == f'poslabel_mm.{expected}'
    assert out.shape[1] == model.head.in_channels


@pytest.mark.parametrize('name', [n for n in LABELLED if '384px' in n])
def test_at_384_px_the_label_and_the_size_are_all_that_changes(name):
    ours = load(name)
    base = load('vit-b_384px_in1k')
    assert ours.model.pop('type') == 'poslabel_mm.PositionalLabelClassifier'
    assert ours.model.pop('pos_head').grid_size == 24
    base.model.pop('type')
    assert ours.to_dict() == base.to_dict()


def test_the_neck_variant_keeps_the_stock_swin():
    model = load('swin-b_apl-stage3_in1k').model
    assert model.backbone.type == 'SwinTransformer'
    assert model.pos_neck == dict(type='poslabel_mm.PatchTokenNeck', stage=2)
    assert model.train_cfg.augments == load('swin-b_in1k').model.train_cfg.augments
