"""``predict`` of the heads that score pairs."""

import math

import pytest
import torch
from test_pairwise_cross_entropy import Recorder
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models import AxialRelativeLabelHead, RelativePositionalLabelHead
from poslabel_mm.models.losses import pairwise_logits, pairwise_predictions
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import relative_labels

pytestmark = pytest.mark.computes

HEADS = [RelativePositionalLabelHead, AxialRelativeLabelHead]
with_every_head = pytest.mark.parametrize('Head', HEADS)


def some_tokens(grid, visible=None):
    N = math.prod(grid)
    indices = None
    if visible is not None:
        indices = torch.stack([torch.randperm(N)[:visible] for _ in range(3)])
    return PatchTokens(torch.randn(3, visible or N, 8), grid, indices)


def written_out(head, patch_tokens):
    """The most probable offset of each pair and its probability, from all logits."""
    H, W = patch_tokens.grid_shape
    logits = head(patch_tokens.tokens).softmax(-1)
    if isinstance(head, AxialRelativeLabelHead):
        logits = head(patch_tokens.tokens)
        rows, columns = (part.softmax(-1) for part in logits.split([2 * H - 1, 2 * W - 1], -1))
        offsets = [rows.argmax(-1) - (H - 1), columns.argmax(-1) - (W - 1)]
        return torch.stack(offsets, -1).float(), rows.amax(-1) * columns.amax(-1)
    label = logits.argmax(-1)
    offsets = [label // (2 * W - 1) - (H - 1), label % (2 * W - 1) - (W - 1)]
    return torch.stack(offsets, -1).float(), logits.amax(-1)


@with_every_head
@pytest.mark.parametrize('chunk', [None, 500, 3000])
@pytest.mark.parametrize(
    'grid, visible', [((3, 3), None), ((2, 5), 4), ((1, 6), None), ((6, 1), 5), ((1, 1), None)]
)
def test_offsets_are_the_most_probable_ones(Head, grid, visible, chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setitem(pairwise_logits.CHUNK_BYTES, 'cpu', chunk)
    head = Head(8, grid, pairs_per_token=2)
    for parameter in head.parameters():
        parameter.data.mul_(4)  # pairs that differ
    patch_tokens = some_tokens(grid, visible)
    predictions = head.predict(patch_tokens)
    offsets, probabilities = written_out(head, patch_tokens)
    assert torch.equal(predictions.offsets, offsets)
    torch.testing.assert_close(predictions.probabilities, probabilities)
    assert predictions.grid_shape == grid
    places = patch_tokens.indices
    if places is None:
        places = torch.arange(math.prod(grid)).expand(3, -1)
    assert torch.equal(predictions.true_places, places)
    assert not predictions.probabilities.requires_grad


@with_every_head
def test_a_head_that_knows_the_offsets_gives_the_places_back(Head):
    grid, N = (2, 3), 6
    head = Head(N, grid, 'all', 'all', hidden_channels=N * N, feat_channels=N * N)
    nn.init.eye_(head.fc2.weight)
    for linear in head.fc1, head.classifier:
        nn.init.zeros_(linear.weight)
    for linear in head.fc1, head.fc2, head.classifier:
        nn.init.zeros_(linear.bias)
    head.fc1.bias.data.fill_(-30)  # a hidden channel for each pair, open if both are there
    labels = relative_labels(grid)
    for k in range(N * N):
        i, j = divmod(k, N)
        head.fc1.weight.data[k, i] = head.fc1.weight.data[k, N + j] = 20
        dy, dx = i // 3 - j // 3, i % 3 - j % 3
        rows = [labels[i, j]] if Head is RelativePositionalLabelHead else [dy + 1, 3 + dx + 2]
        for row in rows:
            head.classifier.weight.data[row, k] = 10
    indices = torch.tensor([[5, 0, 3, 1], [2, 4, 1, 0]])
    patch_tokens = PatchTokens(torch.eye(N)[indices], grid, indices)
    assert head.loss(patch_tokens)['rpl_acc'] == 100
    predictions = head.predict(patch_tokens)
    assert torch.equal(predictions.offsets, predictions.true_offsets().float())
    assert (predictions.probabilities > 0.99).all()
    assert torch.equal(predictions.to_places().places(), indices)


@with_every_head
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast(Head, dtype):
    head = Head(8, (3, 4))
    for parameter in head.parameters():
        parameter.data.mul_(2)
    patch_tokens = some_tokens((3, 4))
    with torch.autocast('cpu', dtype):
        predictions = head.predict(patch_tokens)
    _, probabilities = written_out(head, patch_tokens)
    assert predictions.offsets.dtype == predictions.probabilities.dtype == torch.float32
    torch.testing.assert_close(predictions.probabilities, probabilities, rtol=0.1, atol=0.01)


@with_every_head
def test_float64_tokens_give_float32_predictions(Head):
    patch_tokens = some_tokens((2, 3))
    predictions = (
        Head(8, (2, 3))
        .double()
        .predict(patch_tokens._replace(tokens=patch_tokens.tokens.double()))
    )
    assert predictions.offsets.dtype == predictions.probabilities.dtype == torch.float32


@with_every_head
def test_memory_is_that_of_a_chunk_and_the_result(Head, monkeypatch):
    monkeypatch.setitem(pairwise_logits.CHUNK_BYTES, 'cpu', 20_000)
    head = Head(8, (8, 8))
    with Recorder() as recorder:
        predictions = head.predict(some_tokens((8, 8)))
    result = predictions.offsets.numel() * 8  # int64 labels
    assert recorder.largest <= max(20_000, result)
    assert 'gelu_backward' not in recorder.operators


@with_every_head
def test_tokens_that_do_not_fit_are_refused_as_by_the_loss(Head):
    head = Head(8, (2, 3))
    with pytest.raises(UserError, match='have 4 channels'):
        head.predict(PatchTokens(torch.randn(1, 6, 4), (2, 3)))
    with pytest.raises(UserError, match='3x2 patch grid'):
        head.predict(PatchTokens(torch.randn(1, 6, 8), (3, 2)))


def test_bad_shapes_are_named():
    linears = nn.Linear(8, 6), [nn.Linear(6, 9)]
    query, key = torch.randn(2, 1, 4, 4).unbind(0)
    with pytest.raises(ValueError, match='no pairs'):
        pairwise_predictions(query[:, :0], key, *linears, (9,))
    with pytest.raises(ValueError, match=r'group_sizes=\(4, 4\) for 9 logits'):
        pairwise_predictions(query, key, *linears, (4, 4))
