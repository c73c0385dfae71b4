"""Every head compiled, in half precision and under activation checkpointing."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from poslabel_mm.errors import UserError
from poslabel_mm.models import (
    AxialRelativeLabelHead,
    OffsetRegressionHead,
    PositionalLabelHead,
    PositionRegressionHead,
    RelativePositionalLabelHead,
    SwappedEncodingHead,
    ViewOffsetHead,
)
from poslabel_mm.tokens import PatchTokens, SwappedTokens
from poslabel_mm.tokens.views import Views

pytestmark = pytest.mark.computes

GRID = 3, 4
PATCHES, PAIRS = dict(label_ratio=0.5), dict(pairs_per_token=2)
DRAWS = {
    PositionalLabelHead: PATCHES,
    PositionRegressionHead: PATCHES,
    RelativePositionalLabelHead: PAIRS,
    AxialRelativeLabelHead: PAIRS,
    OffsetRegressionHead: PAIRS,
}
SOFT = dict(target=dict(type='GaussianTarget'))
HEADS = [*DRAWS, SwappedEncodingHead, ViewOffsetHead]
WHOLE = [*((head, {}) for head in HEADS), (PositionalLabelHead, SOFT)]


def names(value):
    if isinstance(value, dict):
        return ' '.join(value) or 'whole'
    return getattr(value, '__name__', str(value))


def make(head, kwargs):
    """The head and tokens of a batch."""
    torch.manual_seed(0)
    sizes = (8, GRID) if head in DRAWS else (8,)
    head = head(*sizes, init_cfg=dict(type='Xavier', layer='Linear'), **kwargs)
    head.init_weights()
    return head, torch.randn(2, 12, 8, requires_grad=True)


def batch_of(head, tokens):
    """What the head's loss takes."""
    if isinstance(head, SwappedEncodingHead):
        swapped = torch.arange(24).reshape(2, 12) % 5 == 0
        return SwappedTokens(tokens, GRID, None, swapped)
    if isinstance(head, ViewOffsetHead):
        boxes = torch.tensor([[4.0, 6, 8, 8], [5, 4, 6, -9]]).expand(2, 2, 4)
        return Views([PatchTokens(tokens, GRID), PatchTokens(tokens.flip(0), GRID)], boxes)
    return PatchTokens(tokens, GRID)


@pytest.mark.slow
@pytest.mark.parametrize(
    'head, kwargs, autocast',
    [(*case, autocast) for case in [*WHOLE, *DRAWS.items()] for autocast in (False, True)],
    ids=names,
)
def test_compiled_head_equals_the_plain_one(head, kwargs, autocast):
    results = []
    for compiled in (False, True):
        module, tokens = make(head, kwargs)
        loss = torch.compile(module.loss, backend='aot_eager') if compiled else module.loss
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            out = loss(batch_of(module, tokens))
        out[head.loss_name].backward()
        results.append([*out.values(), tokens.grad, *(p.grad for p in module.parameters())])
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    torch._dynamo.reset()


@pytest.mark.parametrize('head, kwargs', WHOLE, ids=names)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_loss_in_float32(head, kwargs, dtype):
    module, tokens = make(head, kwargs)
    given = batch_of(module, tokens)
    with torch.autocast('cpu', dtype):
        loss = module.loss(given)[head.loss_name]
        predictions = module.predict(given)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, module.loss(given)[head.loss_name], rtol=1e-2, atol=1e-2)
    for value in predictions:
        assert getattr(value, 'dtype', None) not in (torch.bfloat16, torch.float16, torch.float64)


@pytest.mark.parametrize('head', HEADS, ids=names)
@pytest.mark.parametrize('use_reentrant', [False, True])
def test_checkpointing_repeats_a_whole_head_and_refuses_one_that_draws(head, use_reentrant):
    def loss(tokens):
        return module.loss(batch_of(module, tokens))[head.loss_name]

    module, tokens = make(head, {})
    (expected,) = torch.autograd.grad(loss(tokens), tokens)
    checkpoint(loss, tokens, use_reentrant=use_reentrant).backward()
    assert torch.equal(tokens.grad, expected)
    if head not in DRAWS:
        return

    module, tokens = make(head, DRAWS[head])
    way_out = 'label_ratio=1' if DRAWS[head] is PATCHES else 'pairs_per_token=None'
    with pytest.raises(UserError, match=way_out):
        checkpoint(loss, tokens, use_reentrant=use_reentrant).backward()
