"""Inputs of another patch grid than a head was built for."""

import pytest
import torch
from models import apl_head, batch, build, classifier, tiny_vit

from poslabel_mm.errors import UserError
from poslabel_mm.registry import MODELS as OURS
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import absolute_labels, relative_labels, rescaled_positions

pytestmark = pytest.mark.computes

HEADS = [name for name in ('PositionalLabelHead', 'RelativePositionalLabelHead') if OURS.get(name)]
GRIDS = [(4, 4), (2, 2), (3, 5), (5, 3), (8, 6), (1, 7), (7, 1)]


def plain(grid, target):
    """Where each patch's centre falls, one by one."""
    (H, W), (H_target, W_target) = grid, target
    return [
        int((row + 0.5) * H_target / H) * W_target + int((col + 0.5) * W_target / W)
        for row in range(H)
        for col in range(W)
    ]


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('target', GRIDS)
def test_positions_against_centres(grid, target):
    got = rescaled_positions(grid, target)
    assert got.dtype == torch.int64
    assert got.tolist() == plain(grid, target)
    assert 0 <= got.min() and got.max() < target[0] * target[1]
    if grid == target:
        assert torch.equal(got, absolute_labels(grid))


def test_positions_of_given_patches():
    indices = torch.tensor([[5, 0, 14], [2, 2, 9]])
    everything = rescaled_positions((3, 5), (4, 4))
    assert torch.equal(rescaled_positions((3, 5), (4, 4), indices), everything[indices])


def test_finer_and_coarser_grids_follow_the_image():
    assert rescaled_positions((2, 2), (4, 4)).tolist() == [5, 7, 13, 15]
    assert rescaled_positions((4, 4), (2, 2)).tolist() == [
        0,
        0,
        1,
        1,
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        2,
        2,
        3,
        3,
    ]


def labels_of(head, grid_shape, indices=None):
    """The labels that a head's loss compares with."""
    places = rescaled_positions(grid_shape, head.grid_shape, indices)
    if 'Relative' in type(head).__name__:
        return relative_labels(head.grid_shape, places.view(-1, places.shape[-1]))
    return places


@pytest.mark.parametrize('with_indices', [False, True])
@pytest.mark.parametrize('name', HEADS)
def test_loss_is_the_cross_entropy_with_the_mapped_labels(name, with_indices):
    head = build(
        dict(
            type=f'poslabel_mm.{name}',
            in_channels=8,
            grid_size=(3, 4),
            loss_weight=1.0,
            on_grid_mismatch='rescale',
        )
    )
    indices = torch.tensor([[3, 11, 0], [7, 7, 2]]) if with_indices else None
    tokens = torch.randn(2, 3 if with_indices else 12, 8)
    out = head.loss(PatchTokens(tokens, (2, 6), indices))
    logits = head(tokens)
    labels = labels_of(head, (2, 6), indices).expand(logits.shape[:-1])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
    loss = next(value for key, value in out.items() if 'loss' in key)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize('size', [(16, 16), (24, 24), (16, 32), (20, 12)])
@pytest.mark.parametrize('name', HEADS)
def test_multi_scale_training_on_square_and_other_images(name, size):
    """One head, built for 4x4, learns from every size that it is shown.

    A step against the gradient of a size's loss, to lower it by a thousandth,
    does so. In float64: by 0.99 to 1.01 of that.
    """
    # The default start, std 0.02, is for widths of hundreds of channels.
    head = apl_head(
        on_grid_mismatch='rescale',
        hidden_channels=32,
        init_cfg=dict(type='Xavier', layer='Linear'),
    )
    head['type'] = f'poslabel_mm.{name}'
    model = build(classifier(head, backbone=tiny_vit(out_type='avg_featmap', img_size=(16, 16))))
    model.double()
    images = batch(2, *size)[0].double()

    def position_loss():
        losses = model.position_losses(images)
        return next(v for k, v in losses.items() if 'loss' in k)

    before = position_loss()
    before.backward()
    parameters = [p for p in model.parameters() if p.grad is not None]
    assert {*model.pos_head.parameters()} <= {*parameters}
    assert all(p.grad.any() for p in model.backbone.layers.parameters())
    expected = before.detach() / 1000
    slope = sum(p.grad.square().sum() for p in parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter -= expected / slope * parameter.grad
        fallen = before - position_loss()
    torch.testing.assert_close(fallen, expected, rtol=0.1, atol=0)


@pytest.mark.parametrize('name', HEADS)
def test_the_grid_it_was_built_for_is_left_alone(name):
    cfg = dict(type=f'poslabel_mm.{name}', in_channels=8, grid_size=(2, 3))
    a, b = build(cfg), build(cfg | dict(on_grid_mismatch='rescale'))
    patch_tokens = PatchTokens(torch.randn(2, 6, 8), (2, 3))
    for key, value in a.loss(patch_tokens).items():
        assert torch.equal(b.loss(patch_tokens)[key], value)


def test_the_default_refuses_and_names_the_way_out():
    with pytest.raises(UserError, match="on_grid_mismatch='rescale'"):
        build(classifier(apl_head())).loss(*batch(2, 16, 20))


@pytest.mark.parametrize('name', HEADS)
def test_an_unknown_choice_is_refused(name):
    with pytest.raises(UserError, match="'crop' is unknown.*rescale"):
        build(
            dict(type=f'poslabel_mm.{name}', in_channels=8, grid_size=2, on_grid_mismatch='crop')
        )


def test_tokens_of_a_rescaled_grid_still_need_their_indices():
    head = build(apl_head(in_channels=8, on_grid_mismatch='rescale'))
    with pytest.raises(UserError, match='5 tokens of a 2x3 patch grid'):
        head.loss(PatchTokens(torch.randn(1, 5, 8), (2, 3)))
