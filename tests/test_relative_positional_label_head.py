import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from models import EMBED_DIMS, GRID, apl_head, batch, build, classifier, tiny_vit
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models import RelativePositionalLabelHead
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import relative_labels

pytestmark = pytest.mark.computes


def rpl_head(**kwargs):
    return (
        dict(
            type='poslabel_mm.RelativePositionalLabelHead', in_channels=EMBED_DIMS, grid_size=GRID
        )
        | kwargs
    )


def written_out(head, patch_tokens):
    """Eq. 9 from the head's own logits of all pairs."""
    tokens, grid_shape, indices = patch_tokens
    logits = head(tokens)
    labels = relative_labels(grid_shape, indices).expand(logits.shape[:-1])
    loss = F.cross_entropy(logits.flatten(0, 2), labels.flatten())
    acc = (logits.argmax(-1) == labels).double().mean() * 100
    return dict(loss_rpl=head.loss_weight * loss, rpl_acc=acc)


def test_default_widths_are_those_of_the_released_code():
    head = RelativePositionalLabelHead(in_channels=768, grid_size=14)
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [
        (768, 384),
        (384, 384),
        (384, 729),
    ]


@pytest.mark.parametrize(
    'query, key',
    [
        ('first_half', 'second_half'),
        ('second_half', 'first_half'),
        ('first_half', 'first_half'),
        ('all', 'all'),
        ('all', 'second_half'),
    ],
)
@pytest.mark.parametrize('grid', [(3, 3), (2, 5), (1, 6), (1, 1)])
@pytest.mark.parametrize('visible', [None, 4])
def test_loss_is_equation_9_times_lambda(query, key, grid, visible):
    head = RelativePositionalLabelHead(
        8, grid, query_channels=query, key_channels=key, loss_weight=0.25
    ).double()
    N = grid[0] * grid[1]
    indices = None
    if visible is not None:
        visible = min(visible, N)
        indices = torch.stack([torch.randperm(N)[:visible] for _ in range(3)])
    tokens = torch.randn(3, visible or N, 8, dtype=torch.float64, requires_grad=True)
    patch_tokens = PatchTokens(tokens, grid, indices)
    results = []
    for loss in (head.loss, lambda t: written_out(head, t)):
        out = loss(patch_tokens)
        grads = torch.autograd.grad(out['loss_rpl'], [tokens, *head.parameters()])
        results.append([out['loss_rpl'].detach(), *grads])
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_the_pair_is_the_query_then_the_key():
    """Token i shows its first half, token j its second, in this order."""
    head = RelativePositionalLabelHead(4, (1, 2)).double()
    tokens = torch.randn(1, 2, 4, dtype=torch.float64)
    pair = torch.cat([tokens[0, 0, :2], tokens[0, 1, 2:]])
    expected = head.classifier(head.fc2(F.gelu(head.fc1(pair))))
    torch.testing.assert_close(head(tokens)[0, 0, 1], expected)


def test_learns_the_relations_and_says_how_many():
    """Its classifier is solved for, with more features than there are pairs."""
    head = RelativePositionalLabelHead(
        16,
        (2, 3),
        query_channels='all',
        key_channels='all',
        hidden_channels=64,
        init_cfg=dict(type='Xavier', layer='Linear'),
    ).double()
    head.init_weights()
    tokens = torch.eye(6, 16, dtype=torch.float64)[None]
    patch_tokens = PatchTokens(tokens, (2, 3))
    labels = relative_labels((2, 3)).flatten()
    with torch.no_grad():
        pairs = torch.cat(
            [tokens[:, :, None].expand(-1, -1, 6, -1), tokens[:, None].expand(-1, 6, -1, -1)],
            dim=-1,
        )
        features = head.fc2(F.gelu(head.fc1(pairs))).flatten(0, 2)
        head.classifier.weight.zero_()
        head.classifier.bias.copy_(F.one_hot(labels[0], 15))  # no move at all
        assert head.loss(patch_tokens)['rpl_acc'] == pytest.approx(100 / 6)
        wanted = 9.0 * F.one_hot(labels, 15).double()
        head.classifier.weight.copy_(torch.linalg.lstsq(features, wanted).solution.T)
        head.classifier.bias.zero_()
    out = head.loss(patch_tokens)
    assert out['rpl_acc'] == 100 and out['loss_rpl'] < 0.01
    assert out['rpl_acc'] == written_out(head, patch_tokens)['rpl_acc']


@pytest.mark.parametrize('pairs_per_token', [1, 4])
def test_the_estimate_is_unbiased(pairs_per_token):
    """The mean over many draws approaches the loss over all pairs."""
    exact = RelativePositionalLabelHead(8, (3, 3)).double()
    drawn = RelativePositionalLabelHead(8, (3, 3), pairs_per_token=pairs_per_token).double()
    drawn.load_state_dict(exact.state_dict())
    patch_tokens = PatchTokens(torch.randn(8, 9, 8, dtype=torch.float64), (3, 3))
    for parameter in exact.parameters():
        parameter.data.mul_(4)  # pairs that differ
    drawn.load_state_dict(exact.state_dict())
    expected = exact.loss(patch_tokens)['loss_rpl']
    draws = torch.stack([drawn.loss(patch_tokens)['loss_rpl'].detach() for _ in range(400)])
    error = draws.std() / 400**0.5
    assert 0 < error < 0.05 * expected
    assert abs(draws.mean() - expected) < 4 * error


def test_as_many_pairs_as_there_are_is_the_exact_loss():
    exact = RelativePositionalLabelHead(8, (2, 3))
    every = RelativePositionalLabelHead(8, (2, 3), pairs_per_token=6)
    every.load_state_dict(exact.state_dict())
    patch_tokens = PatchTokens(torch.randn(2, 6, 8), (2, 3))
    assert torch.equal(every.loss(patch_tokens)['loss_rpl'], exact.loss(patch_tokens)['loss_rpl'])


def losses_of_a_run(seeds, rank=0, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr('poslabel_mm.models.random_stream.get_rank', lambda: rank)
    torch.manual_seed(0)
    head = RelativePositionalLabelHead(8, (3, 3), pairs_per_token=2)
    for parameter in head.parameters():
        parameter.data.mul_(4)
    patch_tokens = PatchTokens(torch.randn(2, 9, 8), (3, 3))
    losses = []
    for seed in seeds:  # an epoch of two iterations each
        torch.manual_seed(seed)
        losses += [head.loss(patch_tokens)['loss_rpl'].item() for _ in range(2)]
    return losses


def test_the_draw_follows_the_seed_the_epoch_and_the_rank(monkeypatch):
    whole = losses_of_a_run([1, 2, 3])
    assert len(set(whole)) == 6
    assert losses_of_a_run([1, 2, 3]) == whole
    assert losses_of_a_run([3]) == whole[4:]  # resumed for the third epoch
    other_rank = losses_of_a_run([1, 2, 3], rank=1, monkeypatch=monkeypatch)
    assert not set(other_rank) & set(whole)


def test_the_draw_leaves_the_global_stream_alone():
    head = RelativePositionalLabelHead(8, (3, 3), pairs_per_token=2)
    patch_tokens = PatchTokens(torch.randn(2, 9, 8), (3, 3))
    before = torch.get_rng_state()
    head.loss(patch_tokens)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    'clone',
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=['deepcopy', 'pickle'],
)
def test_a_drawing_head_can_be_copied(clone):
    head = RelativePositionalLabelHead(8, (3, 3), pairs_per_token=2)
    patch_tokens = PatchTokens(torch.randn(2, 9, 8), (3, 3))
    head.loss(patch_tokens)
    assert torch.isfinite(clone(head).loss(patch_tokens)['loss_rpl'])


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(in_channels=7), 'query_channels=.*even number of channels.*7'),
        (dict(in_channels=7, query_channels='all'), 'key_channels=.*even number'),
        (dict(in_channels=8, key_channels='none'), "key_channels='none' is unknown"),
        (dict(in_channels=8, pairs_per_token=0), 'pairs_per_token=0 .*whole number from 1'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(UserError, match=message):
        RelativePositionalLabelHead(grid_size=2, **kwargs)


def test_both_heads_side_by_side():
    images, samples = batch()
    model = build(classifier([apl_head(), rpl_head()]))
    out = model.loss(images, samples)
    assert set(out) == {'loss_cls', 'loss_apl', 'apl_acc', 'loss_rpl', 'rpl_acc'}
    total, log_vars = model.parse_losses(out)
    assert torch.equal(total, out['loss_cls'] + out['loss_apl'] + out['loss_rpl'])
    total.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('pairs_per_token', [None, 3])
def test_weight_zero_trains_as_the_stock_classifier(pairs_per_token):
    noisy = tiny_vit(drop_rate=0.2, drop_path_rate=0.2)
    head = rpl_head(loss_weight=0.0, pairs_per_token=pairs_per_token)
    results = []
    for model in (build(classifier(backbone=noisy)), build(classifier(head, backbone=noisy))):
        images, samples = batch()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(3)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            out = model.loss(images, samples)
            losses.append(out.get('loss_cls', out.get('loss')))
            model.parse_losses(out)[0].backward()
            optimizer.step()
        results.append((losses, model.backbone.state_dict()))
    assert all(map(torch.equal, results[0][0], results[1][0]))
    for name, value in results[0][1].items():
        assert torch.equal(results[1][1][name], value), name


def test_gradient_accumulation_equals_one_large_batch():
    head = RelativePositionalLabelHead(8, (2, 3)).double()
    tokens = torch.randn(4, 6, 8, dtype=torch.float64)
    head.loss(PatchTokens(tokens, (2, 3)))['loss_rpl'].backward()
    expected = [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    for part in tokens.split(2):
        (head.loss(PatchTokens(part, (2, 3)))['loss_rpl'] / 2).backward()
    for parameter, grad in zip(head.parameters(), expected):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('masked', [False, True])
def test_predicted_offsets_are_those_of_the_best_labels(masked):
    head = RelativePositionalLabelHead(in_channels=EMBED_DIMS, grid_size=(3, 5))
    indices = torch.stack([torch.randperm(15)[:6] for _ in range(2)]) if masked else None
    patch_tokens = PatchTokens(
        100 * torch.randn(2, 6 if masked else 15, EMBED_DIMS), (3, 5), indices
    )
    predicted = head.predict(patch_tokens)
    best = head(patch_tokens.tokens).softmax(-1).max(-1)
    row, col = best.indices // 9 - 2, best.indices % 9 - 4
    assert torch.equal(predicted.offsets, torch.stack([row, col], -1).float())
    torch.testing.assert_close(predicted.probabilities, best.values)
    # In the same code the labels of the truth are its offsets.
    labels = relative_labels((3, 5), indices).expand(best.indices.shape)
    true = torch.stack([labels // 9 - 2, labels % 9 - 4], -1)
    assert torch.equal(predicted.true_offsets(), true)
