"""Soft targets of the absolute head, and labels on a drawn part of the patches."""

import copy
import math
import pickle

import pytest
import torch
from mmengine.logging import MessageHub
from models import apl_head, batch, build, classifier, tiny_vit
from selfsup_models import ALGORITHMS, coord_head

from poslabel_mm.errors import UserError
from poslabel_mm.models import PositionalLabelHead, PositionRegressionHead
from poslabel_mm.models.losses import GaussianTarget
from poslabel_mm.tokens import PatchTokens

pytestmark = pytest.mark.computes


def gaussian(place, grid, sigma):
    """Written out for one patch, in plain Python."""
    H, W = grid
    r0, c0 = divmod(place, W)
    weights = [
        math.exp(-((r - r0) ** 2 + (c - c0) ** 2) / (2 * sigma**2))
        for r in range(H)
        for c in range(W)
    ]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize('grid', [(3, 3), (2, 5), (1, 6), (1, 1), (43, 41)])
@pytest.mark.parametrize('sigma', [0.3, 1, 50])
def test_the_target_is_a_gaussian_over_the_grid(grid, sigma):
    N = math.prod(grid)
    labels = torch.randint(N, (2, 3))
    found = GaussianTarget(sigma)(labels, grid, torch.float64)
    assert found.shape == (2, 3, N)
    for label, probabilities in zip(labels.flatten(), found.flatten(0, 1)):
        expected = torch.tensor(gaussian(int(label), grid, sigma), dtype=torch.float64)
        torch.testing.assert_close(probabilities, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('visible', [None, 4])
def test_the_loss_is_the_cross_entropy_with_the_gaussian(visible):
    target = dict(type='GaussianTarget', sigma=0.8)
    head = PositionalLabelHead(8, (2, 5), target=target, loss_weight=0.25).double()
    indices = None if visible is None else torch.stack([torch.randperm(10)[:4] for _ in range(3)])
    tokens = torch.randn(3, visible or 10, 8, dtype=torch.float64, requires_grad=True)
    out = head.loss(PatchTokens(tokens, (2, 5), indices))
    places = torch.arange(10).expand(3, 10) if indices is None else indices
    soft = [[gaussian(int(i), (2, 5), 0.8) for i in row] for row in places]
    soft = torch.tensor(soft, dtype=torch.float64)
    expected = -0.25 * (soft * head(tokens).log_softmax(-1)).sum(-1).mean()
    wanted = [tokens, *head.parameters()]
    torch.testing.assert_close(out['loss_apl'], expected, rtol=1e-10, atol=1e-12)
    for got, plain in zip(
        torch.autograd.grad(out['loss_apl'], wanted), torch.autograd.grad(expected, wanted)
    ):
        torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-12)


def losses_of(head, tokens=None):
    torch.manual_seed(1)
    tokens = torch.randn(2, 6, 8, requires_grad=True)
    out = head.loss(PatchTokens(tokens, (2, 3)))
    (grad,) = torch.autograd.grad(out[head.loss_name], tokens)
    return out[head.loss_name], grad


@pytest.mark.parametrize('sigma', [0, 1e-300, 0.019])
def test_width_zero_is_the_hard_label_bit_for_bit(sigma):
    hard = PositionalLabelHead(8, (2, 3))
    soft = PositionalLabelHead(
        8, (2, 3), target=dict(type='poslabel_mm.GaussianTarget', sigma=sigma)
    )
    soft.load_state_dict(hard.state_dict())
    assert all(map(torch.equal, losses_of(hard), losses_of(soft)))


def test_the_width_decays_to_hard_labels():
    sigma = dict(type='linear', start=2, end=0, epochs=2)
    head = PositionalLabelHead(8, (2, 3), target=dict(type='GaussianTarget', sigma=sigma))
    hub = MessageHub.get_current_instance()
    hub.update_info('max_epochs', 4)
    hub.update_info('max_iters', 12)
    spread = []
    for iteration in (0, 3, 5, 6, 9):
        hub.update_info('iter', iteration)
        target = head._target(torch.tensor([4]), (2, 3), torch.float64)
        spread.append(1 - target.max().item() if target.dim() == 2 else 0)
    assert spread == sorted(spread, reverse=True) and spread[2] > 0 == spread[3] == spread[4]


@pytest.mark.parametrize(
    'target, line',
    [
        ('GaussianTarget', "='GaussianTarget' is refused: set it to a dict with a type"),
        (dict(sigma=1), '={.*} is refused: set it to a dict with a type'),
        (dict(type='ReLU'), ".type='ReLU' is unknown; choose from"),
        (dict(type='GaussianTarget', sigma=-1), '.sigma=-1 is refused: set it to a number from 0'),
        (
            dict(type='GaussianTarget', sigma=dict(type='linear', start=1, end=-1)),
            '.sigma.end=-1 is refused',
        ),
        (dict(type='GaussianTarget', width=1), r".width is unknown; choose from \['sigma'\]"),
    ],
)
def test_a_wrong_target(target, line):
    with pytest.raises(UserError, match=r'^model\.pos_head\.target' + line):
        build(classifier(apl_head(target=target)))


# ------------------------------------------------------------- a drawn part of the patches

HEADS = dict(apl=PositionalLabelHead, coord=PositionRegressionHead)
every_head = pytest.mark.parametrize('kind', HEADS)


@every_head
@pytest.mark.parametrize('visible', [None, 5])
@pytest.mark.parametrize('ratio, labelled', [(0.5, 4), (1e-6, 1), (0.99, None)])
def test_the_loss_is_that_of_the_drawn_patches(kind, visible, ratio, labelled):
    """The tokens that the loss has a gradient for, with their own labels."""
    whole = HEADS[kind](8, (3, 3)).double()
    head = HEADS[kind](8, (3, 3), label_ratio=ratio).double()
    head.load_state_dict(whole.state_dict())
    indices = None if visible is None else torch.stack([torch.randperm(9)[:5] for _ in range(4)])
    n = visible or 9
    labelled = n if labelled is None else labelled if labelled == 1 else round(ratio * n)
    tokens = torch.randn(4, n, 8, dtype=torch.float64, requires_grad=True)
    loss = head.loss(PatchTokens(tokens, (3, 3), indices))[head.loss_name]
    (grad,) = torch.autograd.grad(loss, tokens)
    chosen = grad.abs().sum(-1) > 0
    assert chosen.sum(1).tolist() == [labelled] * 4
    places = torch.arange(9).expand(4, 9) if indices is None else indices
    seen = PatchTokens(
        tokens[chosen].unflatten(0, (4, labelled)), (3, 3), places[chosen].view(4, labelled)
    )
    expected = whole.loss(seen)[head.loss_name]
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    (plain,) = torch.autograd.grad(expected, tokens)
    torch.testing.assert_close(grad, plain, rtol=1e-10, atol=1e-12)


@every_head
def test_all_patches_are_the_head_as_it_was(kind):
    whole, every = HEADS[kind](8, (2, 3)), HEADS[kind](8, (2, 3), label_ratio=1.0)
    every.load_state_dict(whole.state_dict())
    assert all(map(torch.equal, losses_of(whole), losses_of(every)))


@every_head
def test_in_evaluation_all_patches_are_labelled(kind):
    whole = HEADS[kind](8, (2, 3)).eval()
    head = HEADS[kind](8, (2, 3), label_ratio=0.2).eval()
    head.load_state_dict(whole.state_dict())
    assert all(map(torch.equal, losses_of(whole), losses_of(head)))
    patch_tokens = PatchTokens(torch.randn(2, 6, 8), (2, 3))
    assert head.train().predict(patch_tokens).true_places.shape == (2, 6)


def drawn_in_a_run(seeds, rank=0, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr('poslabel_mm.models.random_stream.get_rank', lambda: rank)
    head = PositionalLabelHead(8, (3, 3), label_ratio=0.5)
    patch_tokens = PatchTokens(torch.zeros(2, 9, 8), (3, 3))
    drawn = []
    for seed in seeds:  # an epoch of two iterations each
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        drawn += [head.labelled(patch_tokens).indices.tolist() for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), before)
    return drawn


def test_the_draw_follows_the_seed_the_epoch_and_the_rank(monkeypatch):
    whole = drawn_in_a_run([1, 2, 3])
    assert len({str(draw) for draw in whole}) == 6
    assert all(first != second for first, second in whole)  # images draw apart
    assert drawn_in_a_run([1, 2, 3]) == whole
    assert drawn_in_a_run([3]) == whole[4:]  # resumed for the third epoch
    other = drawn_in_a_run([1, 2, 3], rank=1, monkeypatch=monkeypatch)
    assert not any(draw in whole for draw in other)


def test_every_patch_is_drawn_equally_often():
    head = PositionalLabelHead(8, (3, 3), label_ratio=1 / 3)
    patch_tokens = PatchTokens(torch.zeros(3000, 9, 8), (3, 3))
    counts = head.labelled(patch_tokens).indices.flatten().bincount(minlength=9)
    # 1000 each, with a standard deviation of 26.
    assert counts.sum() == 9000 and (counts - 1000).abs().max() < 120


@pytest.mark.parametrize(
    'clone',
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=['deepcopy', 'pickle'],
)
def test_a_drawing_head_can_be_copied(clone):
    head = PositionalLabelHead(8, (3, 3), label_ratio=0.5, target=dict(type='GaussianTarget'))
    patch_tokens = PatchTokens(torch.randn(2, 9, 8), (3, 3))
    head.loss(patch_tokens)
    assert torch.isfinite(clone(head).loss(patch_tokens)['loss_apl'])


@pytest.mark.parametrize('head', [apl_head, coord_head])
def test_weight_zero_trains_as_the_stock_classifier(head):
    noisy = tiny_vit(drop_rate=0.2, drop_path_rate=0.2)
    head = head(loss_weight=0.0, label_ratio=0.25)
    results = []
    for model in (build(classifier(backbone=noisy)), build(classifier(head, backbone=noisy))):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(3)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            out = model.loss(*batch())
            losses.append(out.get('loss_cls', out.get('loss')))
            model.parse_losses(out)[0].backward()
            optimizer.step()
        results.append((losses, model.backbone.state_dict()))
    assert all(map(torch.equal, results[0][0], results[1][0]))
    for name, value in results[0][1].items():
        assert torch.equal(results[1][1][name], value), name


def test_of_the_visible_patches_of_a_masked_image():
    algorithm = ALGORITHMS['MAE']
    model = algorithm.build(algorithm.head('apl', label_ratio=0.5))
    seen = []
    model.pos_head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    losses = model.loss(*algorithm.batch())
    assert seen == [(4, 2, 16)]  # of the four that are visible
    losses['loss_apl'].backward()


def test_soft_labels_are_not_refused_on_another_grid():
    head = PositionalLabelHead(
        8, (2, 3), on_grid_mismatch='rescale', target=dict(type='GaussianTarget', sigma=0.5)
    )
    loss = head.loss(PatchTokens(torch.randn(2, 24, 8), (4, 6)))['loss_apl']
    assert loss.item() == pytest.approx(0.5 * math.log(6), abs=0.2)
