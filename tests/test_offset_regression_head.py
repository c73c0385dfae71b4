import copy
import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from models import apl_head, batch, build, classifier
from selfsup_models import offset_head
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from poslabel_mm.errors import UserError
from poslabel_mm.models import OffsetRegressionHead
from poslabel_mm.models.losses import pairwise_logits
from poslabel_mm.tokens import PatchTokens

pytestmark = pytest.mark.computes

module = importlib.import_module('poslabel_mm.models.losses.pairwise_regression')

LOSSES = dict(l1=F.l1_loss, l2=F.mse_loss, smooth_l1=F.smooth_l1_loss)
XAVIER = dict(type='Xavier', layer='Linear')


def make(channels, grid, **kwargs):
    head = OffsetRegressionHead(channels, grid, init_cfg=XAVIER, **kwargs).double()
    head.init_weights()
    return head


def written_out(head, patch_tokens, criterion):
    """From the head's own output for all pairs."""
    tokens, (H, W), indices = patch_tokens
    B, n, _ = tokens.shape
    places = torch.arange(n).expand(B, n) if indices is None else indices
    places = torch.stack([places // W, places % W], dim=-1)
    offset = places[:, :, None] - places[:, None]
    unit = torch.tensor([H, W], dtype=tokens.dtype)
    output = head(tokens)
    right = ((output * unit).round() == offset).all(-1).to(tokens.dtype).mean() * 100
    distance = (output * unit - offset).norm(dim=-1).mean()
    return head.loss_weight * criterion(output, offset / unit), right, distance


def tokens_of(grid, visible=None, B=3):
    N = math.prod(grid)
    indices = None
    if visible is not None:
        visible = min(visible, N)
        indices = torch.stack([torch.randperm(N)[:visible] for _ in range(B)])
    tokens = torch.randn(B, visible or N, 8, dtype=torch.float64, requires_grad=True)
    return PatchTokens(tokens, grid, indices)


@pytest.fixture
def pairs_per_chunk(request, monkeypatch):
    """The limit of a chunk in bytes, as pairs of 8 float64 channels."""
    size = request.param * module.WIDTHS_OF_PAIR * 8 * 8
    monkeypatch.setitem(pairwise_logits.CHUNK_BYTES, 'cpu', size)


@pytest.mark.parametrize('pairs_per_chunk', [1, 4, 21, 50, 10**6], indirect=True)
@pytest.mark.parametrize(
    'grid, visible, loss',
    [
        ((3, 3), None, 'l1'),
        ((2, 5), None, 'l2'),
        ((2, 5), 4, 'smooth_l1'),
        ((1, 6), 4, 'l1'),
        ((1, 6), None, 'smooth_l1'),
        ((1, 1), None, 'l2'),
    ],
)
def test_loss_is_the_plain_one(pairs_per_chunk, grid, visible, loss):
    head = make(8, grid, hidden_channels=8, loss=loss, loss_weight=0.25)
    patch_tokens = tokens_of(grid, visible)
    wanted = [patch_tokens.tokens, *head.parameters()]
    out = head.loss(patch_tokens)
    expected, acc, distance = written_out(head, patch_tokens, LOSSES[loss])
    torch.testing.assert_close(out['loss_offset'], expected, rtol=1e-10, atol=1e-12)
    for got, plain in zip(
        torch.autograd.grad(out['loss_offset'], wanted), torch.autograd.grad(expected, wanted)
    ):
        torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(out['offset_acc'], acc, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(out['offset_dist'], distance, rtol=1e-10, atol=1e-12)
    predictions = head.predict(patch_tokens)
    unit = torch.tensor(grid, dtype=torch.float32)
    torch.testing.assert_close(predictions.offsets, head(patch_tokens.tokens).float() * unit)
    right = (predictions.offsets.round() == predictions.true_offsets()).all(-1).float().mean()
    assert right * 100 == pytest.approx(out['offset_acc'].item(), abs=1e-4)


@pytest.mark.parametrize('query, key', [('all', 'all'), ('second_half', 'first_half')])
def test_beyond_a_grid_of_40_by_40(query, key):
    head = make(8, (41, 42), query_channels=query, key_channels=key, hidden_channels=3)
    patch_tokens = tokens_of((41, 42), visible=30, B=2)
    expected, *_ = written_out(head, patch_tokens, F.l1_loss)
    torch.testing.assert_close(
        head.loss(patch_tokens)['loss_offset'], expected, rtol=1e-10, atol=1e-12
    )


def test_the_offset_is_the_query_minus_the_key():
    """A pair that gives its query's first channels less its key's."""
    head = OffsetRegressionHead(
        2, (2, 3), query_channels='all', key_channels='all', hidden_channels=4
    ).double()
    eye = torch.eye(2, dtype=torch.float64)
    with torch.no_grad():  # gelu(x) - gelu(-x) = x
        for linear in (head.fc1, head.fc2, head.regressor):
            linear.bias.zero_()
        head.fc1.weight.copy_(torch.cat([torch.cat([eye, -eye]), torch.cat([-eye, eye])], dim=1))
        head.fc2.weight.zero_()
        head.fc2.weight[:2].copy_(torch.cat([eye, -eye], dim=1))
        head.regressor.weight.copy_(torch.eye(2, 4))
    tokens = torch.tensor([[[r / 2, c / 3] for r in range(2) for c in range(3)]]).double()
    out = head.loss(PatchTokens(tokens, (2, 3)))
    assert out['loss_offset'] < 1e-6 and out['offset_acc'] == 100 and out['offset_dist'] < 1e-6
    offsets = head.predict(PatchTokens(tokens, (2, 3))).offsets
    torch.testing.assert_close(offsets[0, 5, 0], torch.tensor([1.0, 2.0]))
    # The same picture as one row of six patches is another one.
    other = head.loss(PatchTokens(tokens, (2, 3), torch.tensor([[5, 4, 3, 2, 1, 0]])))
    assert other['offset_acc'].item() == pytest.approx(100 / 6)


@pytest.mark.parametrize('pairs_per_token', [1, 4])
def test_drawn_pairs_are_an_unbiased_estimate(pairs_per_token):
    exact = make(8, (3, 3))
    drawn = make(8, (3, 3), pairs_per_token=pairs_per_token)
    drawn.load_state_dict(exact.state_dict())
    patch_tokens = tokens_of((3, 3), B=8)
    expected = exact.loss(patch_tokens)['loss_offset'].detach()
    draws = torch.stack([drawn.loss(patch_tokens)['loss_offset'].detach() for _ in range(400)])
    error = draws.std() / 400**0.5
    assert 0 < error < 0.05 * expected
    assert abs(draws.mean() - expected) < 4 * error


@pytest.mark.parametrize('pairs_per_chunk', [1, 7, 10**6], indirect=True)
def test_drawn_pairs_have_the_loss_of_those_pairs(pairs_per_chunk, monkeypatch):
    head = make(8, (2, 3), hidden_channels=8, pairs_per_token=2)
    patch_tokens = tokens_of((2, 3))
    keys = torch.randint(6, (3, 6, 2))
    monkeypatch.setattr(head, '_key_draw', lambda *_: keys)
    out = head.loss(patch_tokens)['loss_offset']
    places = torch.stack([torch.arange(6) // 3, torch.arange(6) % 3], dim=-1)
    offset = (places[:, None] - places).expand(3, -1, -1, -1)
    unit = torch.tensor([2.0, 3.0]).double()
    index = keys.unsqueeze(-1).expand(-1, -1, -1, 2)
    expected = 0.5 * F.l1_loss(
        head(patch_tokens.tokens).gather(2, index), offset.gather(2, index) / unit
    )
    wanted = [patch_tokens.tokens, *head.parameters()]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    for got, plain in zip(torch.autograd.grad(out, wanted), torch.autograd.grad(expected, wanted)):
        torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-12)


def test_the_draw_leaves_the_global_stream_alone():
    head = OffsetRegressionHead(8, (3, 3), pairs_per_token=2)
    patch_tokens = PatchTokens(torch.randn(2, 9, 8), (3, 3))
    before = torch.get_rng_state()
    losses = [head.loss(patch_tokens)['loss_offset'] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(*losses)
    assert torch.isfinite(copy.deepcopy(head).loss(patch_tokens)['loss_offset'])


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that anything makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor) and 'expand' not in func.__name__:
                self.elements = max(self.elements, value.numel())
        return out


def test_no_tensor_of_all_pairs_is_ever_made(monkeypatch):
    """Nor kept for the backward pass: nothing of a chunk is, but its inputs."""
    B, n, H = 4, 36, 32
    monkeypatch.setitem(pairwise_logits.CHUNK_BYTES, 'cpu', 2 * n * H * 4 * module.WIDTHS_OF_PAIR)
    head = OffsetRegressionHead(8, (6, 6), hidden_channels=H)
    tokens = torch.randn(B, n, 8, requires_grad=True)
    kept = []

    def pack(tensor):
        kept.append(tensor.untyped_storage())
        return tensor

    with Largest() as seen:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = head.loss(PatchTokens(tokens, (6, 6)))['loss_offset']
        loss.backward()
    assert seen.elements < B * n * n * H / 10
    storages = {storage.data_ptr(): storage.nbytes() for storage in kept}
    assert sum(storages.values()) < B * n * n * H
    with Largest() as seen:
        head.predict(PatchTokens(tokens, (6, 6)))
    assert seen.elements == B * n * n * 2


class LargestGELU(TorchDispatchMode):
    """Notes the elements of the largest input of a GELU."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.gelu.default:
            self.elements = max(self.elements, args[0].numel())
        return func(*args, **kwargs or {})


@pytest.mark.parametrize('pairs_per_token', [None, 7])
@pytest.mark.parametrize('pairs', [5, 30])
def test_a_chunk_is_as_large_as_is_said(pairs, pairs_per_token, monkeypatch):
    """Less than the pairs of one query included."""
    H = 8
    monkeypatch.setitem(pairwise_logits.CHUNK_BYTES, 'cpu', pairs * H * 4 * module.WIDTHS_OF_PAIR)
    head = OffsetRegressionHead(8, 4, hidden_channels=H, pairs_per_token=pairs_per_token)
    patch_tokens = PatchTokens(torch.randn(3, 16, 8), (4, 4))
    for method in head.loss, head.predict:
        with LargestGELU() as seen:
            method(patch_tokens)
        assert H < seen.elements <= pairs * H


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_linears_of_the_tokens_alone(dtype, monkeypatch):
    """Sums over pairs and over chunks are float32, in the backward pass too."""
    monkeypatch.setitem(pairwise_logits.CHUNK_BYTES, 'cpu', 8192)  # 16 pairs
    head = OffsetRegressionHead(16, 7, init_cfg=XAVIER, hidden_channels=32, loss='l2')
    head.init_weights()
    tokens = torch.randn(2, 49, 16, requires_grad=True)
    with torch.autocast('cpu', dtype):
        loss = head.loss(PatchTokens(tokens, (7, 7)))['loss_offset']
        query = F.linear(tokens[..., :8], head.fc1.weight[:, :8])
        key = F.linear(tokens[..., 8:], head.fc1.weight[:, 8:], head.fc1.bias)
    assert query.dtype == key.dtype == dtype and loss.dtype == torch.float32
    pairs = F.gelu(query.float()[:, :, None] + key.float()[:, None])
    places = torch.stack([torch.arange(49) // 7, torch.arange(49) % 7], dim=-1)
    offset = (places[:, None] - places).expand(2, -1, -1, -1) / 7
    expected = 0.5 * F.mse_loss(head.regressor(head.fc2(pairs)), offset)
    torch.testing.assert_close(loss, expected)
    wanted = [tokens, *head.parameters()]
    for got, plain in zip(
        torch.autograd.grad(loss * 2**12, wanted), torch.autograd.grad(expected * 2**12, wanted)
    ):
        assert (got - plain).norm() < 0.1 * torch.finfo(dtype).eps * plain.norm()


def test_another_grid_is_rescaled_to_its_own_sides():
    head = make(8, (2, 2))
    patch_tokens = tokens_of((3, 1))
    with pytest.raises(UserError, match='3x1 patch grid'):
        head.loss(patch_tokens)
    head.on_grid_mismatch = 'rescale'
    expected, *_ = written_out(head, patch_tokens, F.l1_loss)
    torch.testing.assert_close(head.loss(patch_tokens)['loss_offset'], expected)
    assert head.predict(patch_tokens).grid_shape == (3, 1)


def test_layers_and_their_default_widths():
    head = OffsetRegressionHead(in_channels=768, grid_size=14)
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(768, 384), (384, 384), (384, 2)]
    assert list(head.state_dict())[::2] == ['fc1.weight', 'fc2.weight', 'regressor.weight']


def test_in_a_model():
    model = build(classifier([apl_head(), offset_head(pairs_per_token=3)]))
    out = model.loss(*batch())
    assert set(out) >= {'loss_cls', 'loss_apl', 'loss_offset', 'offset_acc', 'offset_dist'}
    model.parse_losses(out)[0].backward()
    assert all(p.grad is not None for p in model.parameters())
    predictions = model.predict_positions(model.patch_tokens(batch()[0]))
    assert predictions['offset'].offsets.shape == (2, 16, 16, 2)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(in_channels=7), 'query_channels=.*even number of channels.*7'),
        (dict(key_channels='none'), "key_channels='none' is unknown"),
        (dict(pairs_per_token=0), 'pairs_per_token=0 .*whole number from 1'),
        (dict(loss=True), r"^loss=True is unknown; choose from \['l1', 'l2', 'smooth_l1'\]"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(UserError, match=message):
        OffsetRegressionHead(**dict(in_channels=8, grid_size=2) | kwargs)
