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
from backbones import (
    FIXED_SIZE,
    FLOAT32,
    NO_TRANSFORMERS,
    OTHERS,
    SQUARE,
    TIMM,
    TRANSFORMERS,
    WITHOUT_GRID,
)
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from models import batch, build
from scipy.optimize import linear_sum_assignment

from poslabel_mm.errors import UserError
from poslabel_mm.registry import MODELS as OURS
from poslabel_mm.tokens import PatchTokenReader

pytestmark = pytest.mark.computes

CASES = TRANSFORMERS | OTHERS | TIMM
PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'backbones.md'
HEADS = {
    short: name
    for short, name in dict(APL='PositionalLabelHead', RPL='RelativePositionalLabelHead').items()
    if OURS.get(name)
}
# They read what those of the table read.
FURTHER_HEADS = dict(
    AXIAL='AxialRelativeLabelHead',
    COORD='PositionRegressionHead',
    OFFSET='OffsetRegressionHead',
)

needs_timm = pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='needs timm')
with_every_backbone = pytest.mark.parametrize(
    'name', [pytest.param(name, marks=needs_timm if name in TIMM else ()) for name in CASES]
)
with_every_head = pytest.mark.parametrize('head', HEADS)


def with_heads_and_backbones(test):
    """The table's heads on every backbone, the further ones on a ViT and a Swin."""
    parametrize = pytest.mark.parametrize(
        'name, head',
        [
            pytest.param(name, head, marks=needs_timm if name in TIMM else ())
            for name in CASES
            for head in (
                [*HEADS, *FURTHER_HEADS]
                if name in ('VisionTransformer', 'SwinTransformer')
                else HEADS
            )
        ],
    )
    return parametrize(test)


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
            tokens.mean(-1), torch.zeros(tokens.shape[:2]), atol=1e-4, rtol=0
        )
        assert tokens.var(-1, unbiased=False).mean() > 0.9
    return grid_shape


def stock(name, training=True, seed=0):
    return build(dict(type='ImageClassifier', **case(name)['model']), seed=seed, training=training)


def labelled(name, head='APL', training=True, seed=0, **kwargs):
    cfg = case(name)
    pos_head = (
        dict(
            type=f'poslabel_mm.{(HEADS | FURTHER_HEADS)[head]}',
            in_channels=cfg['channels'],
            grid_size=kwargs.pop('grid_size', None) or grid_of(name),
        )
        | kwargs
    )
    return build(
        dict(type='poslabel_mm.PositionalLabelClassifier', pos_head=pos_head, **cfg['model']),
        seed=seed,
        training=training,
    )


def inputs(name, size=2):
    side = case(name)['size']
    return batch(size, side, side)


def flat(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for item in outputs for tensor in flat(item)]


def precise(name, model):
    """In float64, where no kernel's rounding shows, if the backbone takes it."""
    return model if name in FLOAT32 else model.double()


def dtype_of(model):
    return next(model.parameters()).dtype


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


def coloured_patches(number, size, grid_shape, generator):
    """Images whose patches are shuffled, and the places that they come from.

    Red tells the row and green the column that a patch comes from.

    Returns:
        tuple: Images (number, 3, *size), and for every patch (number, N, 2)
        the row and the column that it comes from, both from -1 to 1.
    """
    H, W = grid_shape
    places = torch.cartesian_prod(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W))
    places = torch.stack(
        [places[torch.randperm(H * W, generator=generator)] for _ in range(number)]
    )
    colours = torch.nn.functional.pad(places, (0, 1))
    images = colours.transpose(1, 2).unflatten(2, (H, W))
    images = images.repeat_interleave(size[0] // H, 2).repeat_interleave(size[1] // W, 3)
    return images + 0.01 * torch.randn(images.shape, generator=generator), places


def what_the_head_reads(head, tokens, places):
    """Rows of features and of targets: of tokens, or of pairs of them."""
    tokens, places = tokens.double(), places.double()
    if isinstance(head, OURS.get(HEADS['APL'])):
        return tokens[..., head.channels].flatten(0, -2), places.flatten(0, -2)
    n = tokens.size(1)
    pairs = torch.cat(
        [
            tokens[:, :, None, head.query_channels].expand(-1, -1, n, -1),
            tokens[:, None, :, head.key_channels].expand(-1, n, -1, -1),
        ],
        dim=-1,
    )
    return (pairs.flatten(0, -2), (places[:, :, None] - places[:, None]).flatten(0, -2))


def explained(train, test):
    """The share of the variance that a ridge regression explains (R squared).

    Solved in float64 on the features and targets of `train`, judged on those
    of `test`: 1 is all, 0 what the mean of the targets explains.
    """
    (x, y), (x_test, y_test) = train, test
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-12)
    x, x_test = (x - mean) / spread, (x_test - mean) / spread
    penalty = 1e-6 * len(x) * torch.eye(x.size(1), dtype=x.dtype)
    solution = torch.linalg.solve(x.T @ x + penalty, x.T @ (y - y.mean(0)))
    missed = (y_test - y.mean(0) - x_test @ solution).square().sum()
    return 1 - (missed / (y_test - y_test.mean(0)).square().sum()).item()


@functools.cache
def coloured_tokens(name):
    """Tokens of coloured patches, of images to learn from and to be judged on.

    Returns:
        tuple: The patch grid, and twice tokens (n, N, C) and places (n, N, 2).
    """
    cfg, size = not_square(name)
    model = precise(name, build(cfg, training=False))
    focus(model)
    reader = PatchTokenReader(model)

    def tokens(images):
        with torch.no_grad(), reader:
            model(images.to(dtype_of(model)))
        return reader.take()

    grid_shape = tokens(torch.zeros(1, 3, *size)).grid_shape
    generator = torch.Generator().manual_seed(0)
    seen = []
    for rows in 480, 160:
        images, places = coloured_patches(
            -(-rows // math.prod(grid_shape)), size, grid_shape, generator
        )
        seen.append((tokens(images).tokens, places))
    return grid_shape, seen


def readable(name, head):
    """How much of a patch's place a linear read-out finds in what a head reads.

    The patches of every image are shuffled, so that only the token with a
    patch's label can tell it, and the images that judge the read-out are none
    of those that it was solved on.
    """
    grid_shape, seen = coloured_tokens(name)
    head = OURS.get(HEADS[head])(case(name)['channels'], grid_shape)
    return explained(*(what_the_head_reads(head, *each) for each in seen))


# The least is 0.15 (MlpMixer); noise in place of tokens gives 0.01 at most, and
# float32 in place of float64, a coarser change than any other kernel, 0.001.
READABLE = 0.08


@with_every_head
@with_every_backbone
def test_the_tokens_tell_their_place(name, head):
    assert readable(name, head) > READABLE


@with_every_head
@pytest.mark.parametrize('breaking', ['noise', 'columns first'])
@pytest.mark.parametrize('name', ['VisionTransformer', 'MixMIMTransformer'])
def test_tokens_that_do_not_tell_it_are_found_out(name, head, breaking, monkeypatch):
    grid_shape, seen = coloured_tokens(name)
    generator = torch.Generator().manual_seed(0)

    def broken(tokens):
        if breaking == 'noise':
            return torch.randn(tokens.shape, dtype=tokens.dtype, generator=generator)
        return tokens.unflatten(1, grid_shape).transpose(1, 2).flatten(1, 2)

    monkeypatch.setitem(
        globals(),
        'coloured_tokens',
        lambda _: (grid_shape, [(broken(tokens), places) for tokens, places in seen]),
    )
    assert readable(name, head) < READABLE


@with_heads_and_backbones
def test_the_position_loss_trains_the_backbone(name, head):
    """All of it: its gradient goes back to the image, and is the slope.

    A step of the backbone alone against its gradient, to lower the loss by a
    thousandth, does so: by 0.98 to 1.01 of that, in float64 and in float32.
    """
    # The default start, std 0.02, is for widths of hundreds of channels.
    model = precise(
        name,
        labelled(
            name,
            head,
            hidden_channels=64,
            feat_channels=64,
            init_cfg=dict(type='Xavier', layer='Linear'),
        ),
    )
    images = inputs(name)[0].to(dtype_of(model)).requires_grad_()

    def loss():
        torch.manual_seed(3)  # for dropout
        return model.position_losses(images)[model.pos_head.loss_name]

    before = loss()
    before.backward()
    assert images.grad is not None and images.grad.any()
    parameters = [p for p in model.backbone.parameters() if p.grad is not None]
    slope = sum(p.grad.double().square().sum() for p in parameters)
    expected = before.detach() / 1000
    with torch.no_grad():
        for parameter in parameters:
            parameter -= (expected / slope).to(parameter.dtype) * parameter.grad
        fallen = before - loss()
    assert 0.5 * expected < fallen < 1.5 * expected


def reactions(name, cfg, size, stage=None, seeds=3):
    """How much every token reacts to every patch of the image.

    Returns:
        tuple: The mean log change (N, N) of token j where patch i is another,
        and the patch grid.
    """
    change = 0
    height, width = size
    for seed in range(seeds):
        model = precise(name, build(cfg, training=False, seed=seed))
        focus(model)
        reader = PatchTokenReader(model, stage)

        def tokens(images):
            with torch.no_grad(), reader:
                model(images.to(dtype_of(model)))
            return reader.take()

        image, _ = batch(1, *size)
        before, (H, W), _ = tokens(image)
        images = image.repeat(H * W, 1, 1, 1)
        h, w = height // H, width // W
        for i in range(H * W):
            top, left = i // W * h, i % W * w
            images[i, :, top : top + h, left : left + w] = torch.randn(3, h, w)
        after = tokens(images).tokens
        change = change + (after - before).double().norm(dim=-1).clamp_min(1e-9).log()
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
    change, grid_shape = reactions(name, cfg, size, stage)
    if stage is None:
        side = case(name)['size']
        assert grid_shape == tuple(n * length // side for n, length in zip(grid_of(name), size))
    assert change.std() > 0.05
    assert places_told_by(change) == list(range(math.prod(grid_shape)))


@pytest.mark.parametrize('name', ['VisionTransformer', 'SwinTransformer'])
def test_tokens_in_another_order_would_be_found_out(name, monkeypatch):
    take = PatchTokenReader.take

    def take_column_by_column(self):
        tokens, (H, W), _ = seen = take(self)
        return seen._replace(tokens=tokens.unflatten(1, (H, W)).transpose(1, 2).flatten(1, 2))

    monkeypatch.setattr(PatchTokenReader, 'take', take_column_by_column)
    change, (H, W) = reactions(name, *not_square(name))
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


@with_heads_and_backbones
def test_outputs_and_keys_are_the_stock_classifiers(name, head):
    a = stock(name, training=False)
    b = labelled(name, head, training=False, seed=3)
    extra = [key for key in b.state_dict() if key not in a.state_dict()]
    assert len(extra) == 6 and all(k.startswith('pos_head.') for k in extra)
    # Swin v2 makes its coordinate tables anew rather than load them.
    made_anew = stock(name).load_state_dict(a.state_dict(), strict=False).missing_keys
    loaded = b.load_state_dict(a.state_dict(), strict=False)
    assert sorted(loaded.missing_keys) == sorted(made_anew + extra)
    assert not loaded.unexpected_keys
    assert a.load_state_dict(b.state_dict(), strict=False).unexpected_keys == extra

    def refuse(*_):
        raise AssertionError('the position head ran')

    b.pos_head.forward = b.pos_head.loss = refuse
    images, samples = inputs(name)
    with torch.no_grad():
        got, expected = (flat(model(images)) for model in (b, a))
        assert all(map(torch.equal, got, expected))
        for x, y in zip(
            b.predict(images, copy.deepcopy(samples)), a.predict(images, copy.deepcopy(samples))
        ):
            assert torch.equal(x.pred_score, y.pred_score)


@with_heads_and_backbones
def test_weight_zero_is_the_stock_training_step(name, head):
    results = []
    for model in (stock(name), labelled(name, head, loss_weight=0.0)):
        torch.manual_seed(3)  # for dropout
        losses = model.loss(*inputs(name))
        losses = {k: v for k, v in losses.items() if 'loss' in k}
        position = OURS.get((HEADS | FURTHER_HEADS)[head]).loss_name
        assert losses.get(position, torch.zeros(())) == 0
        sum(losses.values()).backward()
        results.append(
            [sum(v for k, v in losses.items() if k != position)]
            + [p.grad for key, p in model.named_parameters() if not key.startswith('pos_head.')]
        )
    for a, b in zip(*results):
        # A parameter that the class does not depend on gets a zero.
        assert (
            torch.equal(torch.zeros_like(b) if a is None else a, b)
            if (b is not None)
            else a is None
        )


@with_every_backbone
def test_labels_follow_the_grid_not_the_batch(name):
    model = labelled(name, training=False)
    images, _ = inputs(name, 3)
    with torch.no_grad():
        together = model.position_losses(images)['loss_apl']
        apart = [model.position_losses(i[None])['loss_apl'] for i in images]
    torch.testing.assert_close(together, sum(apart) / 3)
    H, W = grid_of(name)
    # At build time where the backbone tells its grid, else at the first images.
    both = rf'(?=.*{H}x{W} patch grid)(?=.*grid_size=\({H}, {W + 1})'
    with pytest.raises(UserError, match=both):
        labelled(name, grid_size=(H, W + 1)).loss(*inputs(name))


def test_every_backbone_of_the_registry_is_accounted_for():
    shipped = {
        name
        for name, cls in MODELS.module_dict.items()
        if inspect.isclass(cls) and cls.__module__.startswith('mmpretrain.models.backbones.')
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
    heads = ['yes' if readable(name, head) > READABLE else '' for head in HEADS]
    return f'| `{name}` | {source(name)} | {H}×{W} | ' + ' | '.join(heads) + ' |'


def row_of_reason(name):
    with torch.device('meta'), pytest.raises(UserError) as error:
        PatchTokenReader(MODELS.build(WITHOUT_GRID[name]))
    reason = str(error.value).split(': ', 1)[1].rstrip('.')
    return f'| `{name}` | none: {reason} | | | |'


def table():
    return '\n'.join(
        [
            '| backbone | tokens read from | grid at 224 px | APL | RPL |',
            '|---|---|---|---|---|',
            *map(row, CASES),
            *map(row_of_reason, WITHOUT_GRID),
        ]
    )


def replace_table(page):
    start, end = '<!-- table -->\n', '<!-- end of table -->'
    before, rest = page.split(start)
    return before + start + table() + '\n' + end + rest.split(end)[1]


@needs_timm
def test_the_table_in_the_docs_is_up_to_date():
    page = PAGE.read_text('utf-8')
    assert page == replace_table(page), (
        'write it anew: PYTHONPATH=. python tests/test_backbones.py'
    )


if __name__ == '__main__':
    torch.set_num_threads(1)
    MMLogger.get_instance('mmengine').setLevel('WARNING')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        PAGE.write_text(replace_table(PAGE.read_text('utf-8')), 'utf-8')
