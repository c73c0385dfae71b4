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
from backbones import (FIXED_SIZE, NO_TRANSFORMERS, OTHERS, SQUARE, TIMM,
                       TRANSFORMERS, WITHOUT_GRID)
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from models import batch, build
from scipy.optimize import linear_sum_assignment

from poslabel_mm.errors import UserError
from poslabel_mm.labels import relative_labels
from poslabel_mm.registry import MODELS as OURS
from poslabel_mm.tokens import PatchTokenReader

CASES = TRANSFORMERS | OTHERS | TIMM
PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'backbones.md'
HEADS = {
    short: name
    for short, name in dict(
        APL='PositionalLabelHead', RPL='RelativePositionalLabelHead').items()
    if OURS.get(name)
}

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec('timm') is None, reason='needs timm')
with_every_backbone = pytest.mark.parametrize('name', [
    pytest.param(name, marks=needs_timm if name in TIMM else ())
    for name in CASES
])
with_every_head = pytest.mark.parametrize('head', HEADS)


def case(name):
    return copy.deepcopy(CASES[name])


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


def least_without_tokens(grid_shape, head):
    """The least mean cross-entropy of a guess that is the same for all tokens.

    It is the entropy of the labels: every place comes once, and relative
    places come the more often the nearer they are.
    """
    if head == 'APL':
        return math.log(math.prod(grid_shape))
    counts = relative_labels(grid_shape).flatten().bincount().double()
    return torch.distributions.Categorical(counts).entropy().item()


@functools.cache
def learns(name, head, steps=24):
    """Whether training on one batch gets clearly below a guess, and stays."""
    # The default start, std 0.02, is for widths of hundreds of channels.
    model = labelled(
        name,
        head,
        loss_weight=0.5,
        hidden_channels=64,
        feat_channels=64,
        init_cfg=dict(type='Xavier', layer='Linear'))
    images, samples = inputs(name)
    optimizer = torch.optim.Adam([
        dict(params=[
            p for key, p in model.named_parameters()
            if not key.startswith('pos_head.')
        ]),
        dict(params=model.pos_head.parameters(), lr=2e-2)
    ], lr=case(name)['lr'])
    goal = 0.9 * 0.5 * least_without_tokens(grid_of(name), head)
    below = 0
    for _ in range(steps):
        losses = model.loss(images, samples)
        # Of four noisy tokens an image, one step may do by luck.
        below = below + 1 if losses[f'loss_{head.lower()}'] < goal else 0
        if below == 4:
            return True
        total = model.parse_losses(losses)[0]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return False


@with_every_head
@with_every_backbone
def test_the_tokens_tell_their_place(name, head):
    assert learns(name, head)


@with_every_head
@with_every_backbone
def test_the_position_loss_trains_the_backbone(name, head):
    """All of it: its gradient goes back to the image."""
    images, samples = inputs(name)
    images.requires_grad_()
    losses = labelled(name, head).loss(images, samples)
    losses[f'loss_{head.lower()}'].backward()
    assert images.grad is not None and images.grad.any()


def focus(model):
    """Make every convolution look at its middle above all.

    Tokens then react to their own patch more than to the neighbours', which
    random kernels as wide as a late stage's map do not see to.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            middle = module.kernel_size[0] // 2
            if module.kernel_size[0] % 2 and middle:
                module.weight.data[..., middle, middle] *= 10


def reactions(cfg, size, stage=None, seeds=3):
    """How much every token reacts to every patch of the image.

    Returns:
        tuple: The mean log change (N, N) of token j where patch i is another,
        and the patch grid.
    """
    change = 0
    height, width = size
    for seed in range(seeds):
        model = build(cfg, training=False, seed=seed)
        focus(model)
        reader = PatchTokenReader(model, stage)

        def tokens(images):
            with torch.no_grad(), reader:
                model(images)
            return reader.take()

        image, _ = batch(1, *size)
        before, (H, W), _ = tokens(image)
        images = image.repeat(H * W, 1, 1, 1)
        h, w = height // H, width // W
        for i in range(H * W):
            top, left = i // W * h, i % W * w
            images[i, :, top:top + h, left:left + w] = torch.randn(3, h, w)
        after = tokens(images).tokens
        change = change + (after - before).double().norm(
            dim=-1).clamp_min(1e-9).log()
    return change / seeds, (H, W)


def places_told_by(change):
    """Which token goes with which patch, best for all of them together."""
    return linear_sum_assignment(change, maximize=True)[1].tolist()


def not_square(name):
    """The backbone and an image whose sides differ, where it can have one."""
    cfg, side = case(name)['model']['backbone'], case(name)['size']
    size = FIXED_SIZE.get(name, (side, side if name in SQUARE else side * 3 // 2))
    if name in FIXED_SIZE:
        cfg['img_size'] = size
    return cfg, size


@with_every_backbone
def test_every_label_is_the_place_of_the_patch(name):
    """Of another patch, the token with that patch's label reacts, row by row."""
    cfg, size = not_square(name)
    # Past its first stage a token of LeViT attends to all, with no way round.
    stage = 0 if name == 'LeViT' else None
    change, grid_shape = reactions(cfg, size, stage)
    if stage is None:
        side = case(name)['size']
        assert grid_shape == tuple(
            n * length // side for n, length in zip(grid_of(name), size))
    assert change.std() > 0.05
    assert places_told_by(change) == list(range(math.prod(grid_shape)))


@pytest.mark.parametrize('name', ['VisionTransformer', 'SwinTransformer'])
def test_tokens_in_another_order_would_be_found_out(name, monkeypatch):
    take = PatchTokenReader.take

    def take_column_by_column(self):
        tokens, (H, W), _ = seen = take(self)
        return seen._replace(tokens=tokens.unflatten(1, (H, W)).transpose(
            1, 2).flatten(1, 2))

    monkeypatch.setattr(PatchTokenReader, 'take', take_column_by_column)
    change, (H, W) = reactions(*not_square(name))
    assert places_told_by(change) != list(range(H * W))


@with_every_backbone
def test_the_sizes_that_a_backbone_takes(name):
    """The list of those that take one size alone is neither long nor short."""
    cfg, side = case(name)['model']['backbone'], case(name)['size']
    model = build(cfg, training=False)
    images = torch.zeros(1, 3, side, side * 3 // 2)
    if name not in FIXED_SIZE and name not in SQUARE:
        with torch.no_grad():
            model(images)
        return
    with pytest.raises((RuntimeError, AssertionError)):
        model(images)
    if name in SQUARE:
        with pytest.raises((RuntimeError, AssertionError, TypeError)):
            sides = dict(img_size=(side, side * 3 // 2))
            if name == 'EfficientFormer':
                sides = dict(resolution=(7, 10))
            build(cfg | sides)(images)


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
    counted = [*TRANSFORMERS, *OTHERS, *NO_TRANSFORMERS, 'TIMMBackbone']
    assert len(counted) == len(set(counted))
    assert shipped == set(counted)


def source(name):
    source = PatchTokenReader(build(case(name)['model']['backbone'])).source
    place = f'`{source.tokens}`' if source.tokens else 'last tokens'
    return place + (', normalised' if source.normalise else '')


def row(name):
    H, W = (math.ceil(224 * n / case(name)['size']) for n in grid_of(name))
    heads = ['yes' if learns(name, head) else '' for head in HEADS]
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


@needs_timm
def test_the_table_in_the_docs_is_up_to_date():
    page = PAGE.read_text('utf-8')
    assert page == replace_table(page), (
        'write it anew: PYTHONPATH=. python tests/test_backbones.py')


if __name__ == '__main__':
    torch.set_num_threads(1)
    MMLogger.get_instance('mmengine').setLevel('WARNING')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        PAGE.write_text(replace_table(PAGE.read_text('utf-8')), 'utf-8')
