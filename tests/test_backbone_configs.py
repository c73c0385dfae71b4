"""The shipped configs' heads fit the tokens that their backbones give.

One block a stage: widths, strides and grids do not depend on the depth.
"""
import copy
import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from models import build

from poslabel_mm.models import PatchTokenNeck
from poslabel_mm.tokens import PatchTokenReader

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
ARCHS = {
    'tiny': dict(
        embed_dims=96, depths=[1, 1, 1, 1], num_heads=[3, 6, 12, 24]),
    'base': dict(
        embed_dims=128, depths=[1, 1, 1, 1], num_heads=[4, 8, 16, 32]),
    'deit-base': dict(
        embed_dims=768, num_layers=1, num_heads=12,
        feedforward_channels=3072),
}
FAMILIES = ('swin-t', 'swin-b', 'deit-b', 'nest-b')
BASELINES = {
    'swin-t_in1k': ('cpe', False),
    'swin-t_nope_in1k': ('none', False),
    'swin-b_in1k': ('cpe', False),
}


def names(labelled):
    for path in sorted(CONFIGS.glob('*_in1k.py')):
        if path.stem.startswith(FAMILIES):
            if ('_apl' in path.stem or '_rpl' in path.stem) == labelled:
                yield path.stem


@functools.cache
def _load_once(name):
    return Config.fromfile(str(CONFIGS / f'{name}.py'))


def load(name):
    return copy.deepcopy(_load_once(name))


def shallow(model):
    if model.backbone.type == 'TIMMBackbone':
        pytest.importorskip('timm')
    else:
        model.backbone.arch = ARCHS[model.backbone.arch]
    return model


@pytest.mark.parametrize('name', names(labelled=True))
def test_heads_fit_the_tokens(name):
    model = shallow(load(name).model)
    backbone = build(model.backbone, training=False)
    neck = model.get('pos_neck') and PatchTokenNeck(model.pos_neck.stage)
    reader = PatchTokenReader(backbone, neck and neck.stage)
    with torch.no_grad(), reader:
        out = backbone(torch.zeros(1, 3, 224, 224))[-1]
    tokens, grid_shape, _ = reader.take()
    head = model.pos_head
    assert grid_shape == (head.grid_size, head.grid_size) == (14, 14)
    assert tokens.shape == (1, 196, head.in_channels)
    assert head.type == 'poslabel_mm.' + (
        'RelativePositionalLabelHead' if '_rpl' in name
        else 'PositionalLabelHead')
    assert out.shape[1] == model.head.in_channels


@pytest.mark.parametrize('name', names(labelled=True))
def test_a_labelled_config_differs_from_its_baseline_by_the_labels_alone(name):
    ours = load(name).to_dict()
    if 'stage3' in name:
        base = load('swin-b_in1k').to_dict()
        base['model']['backbone'] = ours['model']['backbone']
    else:
        base = load(name.replace('_apl', '').replace('_rpl', '')).to_dict()
    assert ours['model'].pop('type') == 'poslabel_mm.PositionalLabelClassifier'
    assert base['model'].pop('type') == 'ImageClassifier'
    ours['model'].pop('pos_head')
    ours['model'].pop('pos_neck', None)
    assert ours == base


@pytest.mark.parametrize('name', BASELINES)
def test_swins_encodings(name):
    backbone = load(name).model.backbone
    assert (backbone.pos_encoding, backbone.last_downsample) == BASELINES[name]


def test_the_neck_variant_keeps_the_stock_swin():
    model = load('swin-b_apl-stage3_in1k').model
    assert model.backbone.type == 'SwinTransformer'
    assert model.pos_neck == dict(type='poslabel_mm.PatchTokenNeck', stage=2)


@pytest.mark.parametrize('name', [*names(False), *names(True)])
def test_the_recipe_is_the_papers(name):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size * 8 == 256
    assert cfg.optim_wrapper.optimizer.lr == 1e-3
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    assert cfg.train_cfg.max_epochs == 300
    assert [a.type for a in cfg.model.train_cfg.augments] == ['Mixup', 'CutMix']
    assert cfg.default_hooks.checkpoint.type.startswith('poslabel_mm.')
