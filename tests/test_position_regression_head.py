import math

import pytest
import torch
import torch.nn.functional as F
from models import apl_head, batch, build, classifier
from selfsup_models import coord_head
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models import PositionRegressionHead
from poslabel_mm.tokens import PatchTokens

pytestmark = pytest.mark.computes


def written_out(head, patch_tokens, criterion):
    """Token by token, in plain Python."""
    tokens, (H, W), indices = patch_tokens
    losses, right, distances = [], [], []
    for b in range(len(tokens)):
        for i in range(tokens.shape[1]):
            row, col = divmod(i if indices is None else int(indices[b, i]), W)
            x = tokens[b, i, head.channels]
            y, x = head.regressor(head.fc2(F.gelu(head.fc1(x))))
            for side, at, value in ((H, row, y), (W, col, x)):
                losses.append(criterion(value - ((2 * at + 1) / side - 1)))
            y, x = ((y + 1) * H - 1) / 2, ((x + 1) * W - 1) / 2
            distances.append(math.dist((y.item(), x.item()), (row, col)))
            place = [min(max(round(float(v)), 0), side - 1) for v, side in ((y, H), (x, W))]
            right.append(place == [row, col])
    n = len(right)
    return sum(losses) / len(losses), 100 * sum(right) / n, sum(distances) / n


CRITERIA = dict(
    l1=lambda d: d.abs(),
    l2=lambda d: d.square(),
    smooth_l1=lambda d: d.square() / 2 if d.abs() < 1 else d.abs() - 0.5,
)


@pytest.mark.parametrize('loss', CRITERIA)
@pytest.mark.parametrize('grid', [(3, 3), (2, 5), (1, 6), (1, 1), (41, 2)])
@pytest.mark.parametrize('visible', [None, 4])
def test_loss_is_the_plain_one(loss, grid, visible):
    head = PositionRegressionHead(
        8, grid, loss=loss, loss_weight=0.25, init_cfg=dict(type='Xavier', layer='Linear')
    ).double()
    head.init_weights()
    N = math.prod(grid)
    indices = None
    if visible is not None:
        visible = min(visible, N)
        indices = torch.stack([torch.randperm(N)[:visible] for _ in range(3)])
    tokens = torch.randn(3, visible or N, 8, dtype=torch.float64, requires_grad=True)
    patch_tokens = PatchTokens(tokens, grid, indices)
    out = head.loss(patch_tokens)
    expected, acc, distance = written_out(head, patch_tokens, CRITERIA[loss])
    wanted = [tokens, *head.parameters()]
    torch.testing.assert_close(out['loss_coord'], 0.25 * expected, rtol=1e-10, atol=1e-12)
    for got, plain in zip(
        torch.autograd.grad(out['loss_coord'], wanted),
        torch.autograd.grad(0.25 * expected, wanted),
    ):
        torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-12)
    assert out['coord_acc'].item() == pytest.approx(acc, abs=1e-9)
    assert out['coord_dist'].item() == pytest.approx(distance, abs=1e-9)


def test_layers_and_their_default_widths():
    head = PositionRegressionHead(in_channels=768, grid_size=14)
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(384, 384), (384, 192), (192, 2)]
    assert list(head.state_dict())[::2] == ['fc1.weight', 'fc2.weight', 'regressor.weight']


def exact(grid, channels=4):
    """A head whose output is a token's first two channels."""
    head = PositionRegressionHead(channels, grid, channels='all', hidden_channels=2 * channels)
    head.double()
    eye = torch.eye(channels, dtype=torch.float64)
    with torch.no_grad():  # gelu(x) - gelu(-x) = x
        for linear in (head.fc1, head.fc2, head.regressor):
            linear.bias.zero_()
        head.fc1.weight.copy_(torch.cat([eye, -eye]))
        head.fc2.weight.copy_(torch.cat([eye[:2], -eye[:2]], dim=1))
        head.regressor.weight.copy_(torch.eye(2))
    return head


def test_a_head_that_knows_is_told_so():
    head = exact((2, 3))
    rows, cols = [-0.5, 0.5], [-2 / 3, 0, 2 / 3]
    tokens = torch.tensor([[[r, c, 0, 0] for r in rows for c in cols]], dtype=torch.float64)
    tokens = torch.cat([tokens, tokens.flip(1)])
    indices = torch.stack([torch.arange(6), torch.arange(6).flip(0)])
    out = head.loss(PatchTokens(tokens, (2, 3), indices))
    assert out['loss_coord'] < 1e-12 and out['coord_acc'] == 100 and out['coord_dist'] < 1e-12
    predictions = head.predict(PatchTokens(tokens, (2, 3), indices))
    assert predictions.true_places.equal(indices)
    torch.testing.assert_close(
        predictions.coordinates[0, 5].double(), torch.tensor([1.0, 2.0]).double()
    )
    # Away by a column of three: 2/3 of the way from -1 to 1.
    out = head.loss(PatchTokens(tokens[:, [0]], (2, 3), torch.tensor([[1], [4]])))
    assert out['coord_dist'].item() == pytest.approx(1) and out['coord_acc'] == 0
    assert out['loss_coord'].item() == pytest.approx(0.5 * (2 / 3) ** 2 / 2)


def test_predictions_are_what_the_loss_counts():
    head = PositionRegressionHead(8, (2, 3))
    for parameter in head.parameters():
        parameter.data.mul_(4)
    indices = torch.tensor([[5, 0, 2], [1, 3, 4]])
    patch_tokens = PatchTokens(torch.randn(2, 3, 8), (2, 3), indices)
    predictions, out = head.predict(patch_tokens), head.loss(patch_tokens)
    assert predictions.probabilities is None and predictions.coordinates.dtype == torch.float32
    assert not predictions.coordinates.requires_grad
    right = (predictions.places() == indices).float().mean() * 100
    torch.testing.assert_close(right, out['coord_acc'])


def test_another_grid_is_rescaled_to_its_own_centres():
    """The centre of a patch has coordinates whatever the grid is."""
    head = exact((2, 2))
    tokens = torch.tensor([[[-0.75, 0, 0, 0]]], dtype=torch.float64)
    patch_tokens = PatchTokens(tokens, (4, 1), torch.tensor([[0]]))
    with pytest.raises(UserError, match='4x1 patch grid'):
        head.loss(patch_tokens)
    head.on_grid_mismatch = 'rescale'
    out = head.loss(patch_tokens)
    assert out['loss_coord'] < 1e-12 and out['coord_acc'] == 100
    assert head.predict(patch_tokens).grid_shape == (4, 1)


def test_beside_the_absolute_head():
    model = build(classifier([apl_head(), coord_head()]))
    out = model.loss(*batch())
    assert set(out) == {
        'loss_cls',
        'loss_apl',
        'apl_acc',
        'loss_coord',
        'coord_acc',
        'coord_dist',
    }
    total, log = model.parse_losses(out)
    assert torch.equal(total, out['loss_cls'] + out['loss_apl'] + out['loss_coord'])
    assert log['coord_dist'] == out['coord_dist']
    total.backward()
    assert all(p.grad is not None for p in model.parameters())
    predictions = model.predict_positions(model.patch_tokens(batch()[0]))
    assert list(predictions) == ['apl', 'coord']


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(in_channels=7), 'channels=.*even number of channels.*7'),
        (dict(loss='huber'), r"^loss='huber' is unknown; choose from \['l1', 'l2', 'smooth_l1'\]"),
        (dict(label_ratio=0), r'^label_ratio=0 is refused: set it to a number from 1e-06 to 1$'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(UserError, match=message):
        PositionRegressionHead(**dict(in_channels=8, grid_size=2) | kwargs)
