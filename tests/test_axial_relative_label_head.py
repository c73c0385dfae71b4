"""The axial head: the relative label as a row offset and a column offset."""

import pytest
import torch
import torch.nn.functional as F
from models import apl_head, batch, build, classifier
from selfsup_models import ALGORITHMS, axial_head, rpl_head
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models import AxialRelativeLabelHead, RelativePositionalLabelHead
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import num_axial

pytestmark = pytest.mark.computes

EXACT = dict(rtol=1e-10, atol=1e-12)


def places_of(patch_tokens):
    """Row and column of every token, from the plain formula."""
    tokens, (H, W), indices = patch_tokens
    if indices is None:
        indices = torch.arange(H * W).expand(tokens.shape[:2])
    return indices // W, indices % W


def written_out(head, patch_tokens):
    """Loss and accuracy from the head's own logits of all pairs."""
    H, W = patch_tokens.grid_shape
    logits = head(patch_tokens.tokens)
    loss, right = 0, True
    for place, size, part in zip(
        places_of(patch_tokens), (H, W), logits.split(num_axial((H, W)), -1)
    ):
        label = place[:, :, None] - place[:, None] + size - 1
        loss = loss + F.cross_entropy(part.flatten(0, 2), label.flatten())
        right = right & (part.argmax(-1) == label)
    return dict(loss_rpl=head.loss_weight * loss, rpl_acc=right.double().mean() * 100)


def some_tokens(grid, visible=None, batch_size=3, channels=8):
    N = grid[0] * grid[1]
    indices = None
    if visible is not None:
        indices = torch.stack([torch.randperm(N)[:visible] for _ in range(batch_size)])
    tokens = torch.randn(batch_size, visible or N, channels, dtype=torch.float64)
    return PatchTokens(tokens.requires_grad_(), grid, indices)


def value_and_gradients(loss, head, tokens):
    return [loss.detach(), *torch.autograd.grad(loss, [tokens, *head.parameters()])]


def test_default_widths_are_those_of_the_relative_head():
    head = AxialRelativeLabelHead(in_channels=768, grid_size=14)
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [
        (768, 384),
        (384, 384),
        (384, 54),
    ]


@pytest.mark.parametrize(
    'grid, visible, options',
    [
        ((3, 3), None, {}),
        ((2, 5), None, dict(query_channels='all', key_channels='second_half')),
        ((1, 6), None, dict(hidden_channels=5, feat_channels=9)),
        ((6, 1), None, dict(hidden_channels=9, feat_channels=2)),
        ((1, 1), None, {}),
        ((4, 5), 6, dict(query_channels='second_half', key_channels='first_half')),
        ((40, 40), 9, dict(query_channels='all', key_channels='all')),
        ((1, 40), None, {}),
        ((40, 1), None, {}),
        ((14, 14), 20, {}),
    ],
)
def test_loss_is_the_sum_of_both_cross_entropies(grid, visible, options):
    head = AxialRelativeLabelHead(8, grid, loss_weight=0.25, **options).double()
    patch_tokens = some_tokens(grid, visible)
    got, expected = head.loss(patch_tokens), written_out(head, patch_tokens)
    assert got['rpl_acc'] == expected['rpl_acc']
    for a, b in zip(
        value_and_gradients(got['loss_rpl'], head, patch_tokens.tokens),
        value_and_gradients(expected['loss_rpl'], head, patch_tokens.tokens),
    ):
        torch.testing.assert_close(a, b, **EXACT)


def full_head_like(axial):
    """The relative head whose classifier is W[(dy, dx)] = u_dy + v_dx, and the bias too."""
    full = RelativePositionalLabelHead(axial.in_channels, axial.grid_shape).double()
    sizes = num_axial(axial.grid_shape)
    state = axial.state_dict()
    for name in 'weight', 'bias':
        rows, columns = state[f'classifier.{name}'].split(sizes)
        state[f'classifier.{name}'] = (rows[:, None] + columns[None]).flatten(0, 1)
    full.load_state_dict(state)
    return full


@pytest.mark.parametrize('grid, visible', [((3, 4), None), ((5, 3), 7), ((1, 6), None)])
def test_equals_the_relative_head_with_weights_of_rows_plus_columns(grid, visible):
    axial = AxialRelativeLabelHead(8, grid).double()
    for parameter in axial.parameters():
        parameter.data.mul_(4)  # pairs that differ
    full = full_head_like(axial)
    patch_tokens = some_tokens(grid, visible)
    got, expected = axial.loss(patch_tokens), full.loss(patch_tokens)
    torch.testing.assert_close(got, expected, **EXACT)
    grads = [torch.autograd.grad(out['loss_rpl'], patch_tokens.tokens) for out in (got, expected)]
    torch.testing.assert_close(*grads, **EXACT)
    ours, theirs = axial.predict(patch_tokens), full.predict(patch_tokens)
    assert torch.equal(ours.offsets, theirs.offsets)
    torch.testing.assert_close(ours.probabilities, theirs.probabilities)


def test_a_pair_counts_if_row_and_column_are_right():
    head = AxialRelativeLabelHead(4, (2, 2)).double()
    nn.init.zeros_(head.classifier.weight)
    # All pairs are said to lie in one row and one column: of 16, 8 and 8 do so, 4 in both.
    head.classifier.bias.data.copy_(torch.tensor([0, 1, 0, 0, 1, 0]))
    assert head.loss(some_tokens((2, 2), channels=4))['rpl_acc'] == 25


@pytest.mark.parametrize('pairs_per_token', [1, 4])
def test_the_estimate_is_unbiased(pairs_per_token):
    exact = AxialRelativeLabelHead(8, (3, 3)).double()
    drawn = AxialRelativeLabelHead(8, (3, 3), pairs_per_token=pairs_per_token).double()
    for parameter in exact.parameters():
        parameter.data.mul_(4)
    drawn.load_state_dict(exact.state_dict())
    patch_tokens = some_tokens((3, 3), batch_size=8)
    expected = exact.loss(patch_tokens)['loss_rpl']
    draws = torch.stack([drawn.loss(patch_tokens)['loss_rpl'].detach() for _ in range(400)])
    error = draws.std() / 400**0.5
    assert 0 < error < 0.05 * expected
    assert abs(draws.mean() - expected) < 4 * error


def test_an_input_of_another_grid_is_rescaled_or_refused():
    head = AxialRelativeLabelHead(8, (3, 4), on_grid_mismatch='rescale').double()
    indices = torch.tensor([[3, 11, 0], [7, 7, 2]])
    tokens = torch.randn(2, 3, 8, dtype=torch.float64)
    out = head.loss(PatchTokens(tokens, (2, 6), indices))
    row, column = indices // 6, indices % 6
    centres = (2 * row + 1) * 3 // 4 * 4 + (2 * column + 1) * 4 // 12
    expected = written_out(head, PatchTokens(tokens, (3, 4), centres))
    torch.testing.assert_close(out, expected, **EXACT)
    assert torch.equal(head.predict(PatchTokens(tokens, (2, 6), indices)).true_places, centres)
    strict = AxialRelativeLabelHead(8, (3, 4))
    with pytest.raises(UserError, match='2x6 patch grid but AxialRelativeLabelHead .*grid_size'):
        strict.loss(PatchTokens(tokens, (2, 6), indices))


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(in_channels=7), 'query_channels=.*even number of channels.*7'),
        (dict(in_channels=8, key_channels='none'), "key_channels='none' is unknown"),
        (dict(in_channels=8, pairs_per_token=0), 'pairs_per_token=0 .*whole number from 1'),
        (dict(in_channels=8, hidden_channels=-1), 'hidden_channels=-1 '),
        (dict(in_channels=8, grid_size=0), 'grid_size=0 '),
        (dict(in_channels=8, loss_weight=-1), 'loss_weight=-1 '),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(UserError, match=message):
        AxialRelativeLabelHead(**dict(grid_size=2) | kwargs)


def test_beside_the_absolute_head_but_not_beside_the_relative_one():
    images, samples = batch()
    out = build(classifier([apl_head(), axial_head()])).loss(images, samples)
    assert set(out) == {'loss_cls', 'loss_apl', 'apl_acc', 'loss_rpl', 'rpl_acc'}
    with pytest.raises(UserError, match=r'model\.pos_head\.1: two position heads return loss_rpl'):
        build(classifier([rpl_head(), axial_head()]))


def test_on_mae_labels_are_those_of_the_visible_patches():
    algorithm = ALGORITHMS['MAE']
    model = algorithm.build(algorithm.head('axial'))
    patch_tokens = model.patch_tokens(algorithm.batch()[0])
    assert patch_tokens.indices is not None
    torch.testing.assert_close(
        model.pos_head.loss(patch_tokens),
        written_out(model.pos_head, patch_tokens),
        check_dtype=False,
    )
