"""Positional labels on every transformer backbone of MMPretrain.

The table in docs/backbones.md comes from here. Write it anew with

    PYTHONPATH=. python tests/test_backbones.py
"""
import copy
import functools
import importlib.util
import inspect
import math
from pathlib import Path

import poslabel_mm  # noqa: F401  isort: skip  (mends torchvision's import)
import mmpretrain.models  # noqa: F401  (fills the registry)
import pytest
import torch
from backbones import (NEST, NO_TRANSFORMERS, OTHERS, TRANSFORMERS,
                       WITHOUT_GRID)
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from models import batch, build

from poslabel_mm.errors import UserError
from poslabel_mm.registry import MODELS as OURS
from poslabel_mm.tokens import PatchTokenReader

CASES = TRANSFORMERS | OTHERS
PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'backbones.md'
HEADS = {
    short: name
    for short, name in dict(
        APL='PositionalLabelHead', RPL='RelativePositionalLabelHead').items()
    if OURS.get(name)
}

with_every_backbone = pytest.mark.parametrize('name', [
    *CASES,
    pytest.param(
        'NesT',
        marks=pytest.mark.skipif(
            importlib.util.find_spec('timm') is None, reason='needs timm')),
])
with_every_head = pytest.mark.parametrize('head', HEADS)


def case(name):
    return copy.deepcopy(NEST if name == 'NesT' else CASES[name])


@functools.cache
def grid_of(name):
    """The patch grid of a case's input, from the tokens themselves."""
    backbone = build(case(name)['model']['backbone'], training=False)
    reader = PatchTokenReader(backbone)
    side = case(name)['size']
    with torch.no_grad(), reader:
        backbone(batch(2, side, side)[0])
    tokens, grid_shape, indices = reader.take()
    assert tokens.shape == (2, math.prod(grid_shape), case(name)['channels'])
    assert indices is None
    if reader.source.normalise:
        torch.testing.assert_close(
            tokens.mean(-1), torch.zeros(tokens.shape[:2]), atol=1e-4, rtol=0)
        assert tokens.var(-1, unbiased=False).mean() > 0.9
    return grid_shape


def stock(name, training=True, seed=0):
    return build(dict(type='ImageClassifier', **case(name)['model']),
                 seed=seed, training=training)


def labelled(name, head='APL', training=True, seed=0, **kwargs):
    cfg = case(name)
    pos_head = dict(
        type=f'poslabel_mm.{HEADS[head]}',
        in_channels=cfg['channels'],
        grid_size=kwargs.pop('grid_size', None) or grid_of(name)) | kwargs
    return build(
        dict(
            type='poslabel_mm.PositionalLabelClassifier',
            pos_head=pos_head,
            **cfg['model']),
        seed=seed,
        training=training)


def inputs(name, size=2):
    side = case(name)['size']
    return batch(size, side, side)


def flat(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for item in outputs for tensor in flat(item)]


@functools.cache
def position_losses(name, head, steps=8):
    """Position losses of a few training steps on one batch."""
    # The default start, std 0.02, is for widths of hundreds of channels.
    model = labelled(
        name,
        head,
        hidden_channels=32,
        init_cfg=dict(type='Xavier', layer='Linear'))
    images, samples = inputs(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=case(name)['lr'])
    values = []
    for _ in range(steps):
        losses = model.loss(images, samples)
        total = model.parse_losses(losses)[0]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(losses[f'loss_{head.lower()}'].item())
    return values


@with_every_head
@with_every_backbone
def test_the_position_loss_falls(name, head):
    losses = position_losses(name, head)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.98 * losses[0]


@with_every_head
@with_every_backbone
def test_outputs_and_keys_are_the_stock_classifiers(name, head):
    a = stock(name, training=False)
    b = labelled(name, head, training=False, seed=3)
    extra = [key for key in b.state_dict() if key not in a.state_dict()]
    assert len(extra) == 6 and all(k.startswith('pos_head.') for k in extra)
    # Swin v2 makes its coordinate tables anew rather than load them.
    made_anew = stock(name).load_state_dict(
        a.state_dict(), strict=False).missing_keys
    loaded = b.load_state_dict(a.state_dict(), strict=False)
    assert sorted(loaded.missing_keys) == sorted(made_anew + extra)
    assert not loaded.unexpected_keys
    assert a.load_state_dict(b.state_dict(),
                             strict=False).unexpected_keys == extra

    def refuse(*_):
        raise AssertionError('the position head ran')

    b.pos_head.forward = b.pos_head.loss = refuse
    images, samples = inputs(name)
    with torch.no_grad():
        got, expected = (flat(model(images)) for model in (b, a))
        assert all(map(torch.equal, got, expected))
        for x, y in zip(b.predict(images, copy.deepcopy(samples)),
                        a.predict(images, copy.deepcopy(samples))):
            assert torch.equal(x.pred_score, y.pred_score)


@with_every_head
@with_every_backbone
def test_weight_zero_is_the_stock_training_step(name, head):
    results = []
    for model in (stock(name), labelled(name, head, loss_weight=0.)):
        torch.manual_seed(3)  # for dropout
        losses = model.loss(*inputs(name))
        losses = {k: v for k, v in losses.items() if 'loss' in k}
        position = f'loss_{head.lower()}'
        assert losses.get(position, torch.zeros(())) == 0
        sum(losses.values()).backward()
        results.append([sum(v for k, v in losses.items() if k != position)] + [
            p.grad for key, p in model.named_parameters()
            if not key.startswith('pos_head.')
        ])
    for a, b in zip(*results):
        # A parameter that the class does not depend on gets a zero.
        assert torch.equal(torch.zeros_like(b) if a is None else a, b) if (
            b is not None) else a is None


@with_every_backbone
def test_labels_follow_the_grid_not_the_batch(name):
    model = labelled(name, training=False)
    images, _ = inputs(name, 3)
    with torch.no_grad():
        together = model.position_losses(images)['loss_apl']
        apart = [model.position_losses(i[None])['loss_apl'] for i in images]
    torch.testing.assert_close(together, sum(apart) / 3)
    H, W = grid_of(name)
    with pytest.raises(
            UserError, match=rf'{H}x{W} patch grid.*grid_size=\({H}, {W + 1}'):
        labelled(name, grid_size=(H, W + 1)).loss(*inputs(name))


def test_every_backbone_of_the_registry_is_accounted_for():
    shipped = {
        name
        for name, cls in MODELS.module_dict.items()
        if inspect.isclass(cls)
        and cls.__module__.startswith('mmpretrain.models.backbones.')
    }
    counted = [*CASES, *NO_TRANSFORMERS, 'TIMMBackbone']
    assert len(counted) == len(set(counted))
    assert shipped == set(counted)


def source(name):
    source = PatchTokenReader(build(case(name)['model']['backbone'])).source
    place = f'`{source.tokens}`' if source.tokens else 'last tokens'
    return place + (', normalised' if source.normalise else '')


def row(name):
    H, W = (math.ceil(224 * n / case(name)['size']) for n in grid_of(name))
    heads = [
        'yes' if head in HEADS and
        position_losses(name, head)[-1] < position_losses(name, head)[0] else
        '' for head in ('APL', 'RPL')
    ]
    return f'| `{name}` | {source(name)} | {H}×{W} | ' + ' | '.join(heads) + ' |'


def row_of_reason(name):
    with torch.device('meta'), pytest.raises(UserError) as error:
        PatchTokenReader(MODELS.build(WITHOUT_GRID[name]))
    reason = str(error.value).split(': ', 1)[1].rstrip('.')
    return f'| `{name}` | none: {reason} | | | |'


def table():
    return '\n'.join([
        '| backbone | tokens read from | grid at 224 px | APL | RPL |',
        '|---|---|---|---|---|', *map(row, CASES),
        *map(row_of_reason, WITHOUT_GRID)
    ])


def replace_table(page):
    start, end = '<!-- table -->\n', '<!-- end of table -->'
    before, rest = page.split(start)
    return before + start + table() + '\n' + end + rest.split(end)[1]


def test_the_table_in_the_docs_is_up_to_date():
    page = PAGE.read_text('utf-8')
    assert page == replace_table(page), (
        'write it anew: PYTHONPATH=. python tests/test_backbones.py')


if __name__ == '__main__':
    torch.set_num_threads(1)
    MMLogger.get_instance('mmengine').setLevel('WARNING')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        PAGE.write_text(replace_table(PAGE.read_text('utf-8')), 'utf-8')
