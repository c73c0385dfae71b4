"""Which patches of a padded batch the position heads read."""

import pytest
import torch

from poslabel_mm.tokens import PatchTokens, SwappedTokens
from poslabel_mm.tokens.padding import shows_image, without_padding

NONE = (0, 0, 0, 0)


def numbered(B, H, W, indices=None, kind=PatchTokens, **kwargs):
    """Tokens that tell their image and their place."""
    places = torch.arange(H * W).expand(B, -1) if indices is None else indices
    images = torch.arange(B).unsqueeze(1).expand_as(places)
    return kind(torch.stack([images, places], dim=-1).float(), (H, W), indices, **kwargs)


@pytest.mark.parametrize(
    'padding, shown',
    [
        (NONE, 'xxxx xxxx xxxx'),
        ((0, 8, 0, 0), 'xxx. xxx. xxx.'),  # right
        ((0, 7, 0, 0), 'xxxx xxxx xxxx'),  # one column of pixels is left of the last patches
        ((9, 0, 0, 17), '.xxx .... ....'),
        ((0, 0, 8, 8), '.... xxxx ....'),
    ],
)
def test_a_patch_is_read_if_it_shows_a_pixel_of_the_image(padding, shown):
    expected = [mark == 'x' for mark in shown.replace(' ', '')]
    assert shows_image((3, 4), (24, 32), [padding]).tolist() == [expected]


@pytest.mark.parametrize('size, count', [(30, 4), (33, 4), (50, 4)])
def test_patches_of_a_size_that_is_no_multiple(size, count):
    for padding in range(size):
        end = (size - padding) * count / size
        expected = [i < end for i in range(count)]
        assert shows_image((1, count), (1, size), [(0, padding, 0, 0)]).tolist() == [expected]


def test_without_padding_the_tokens_stay_as_they_are():
    patch_tokens = numbered(2, 3, 4)
    (same,) = without_padding(patch_tokens, (24, 32), [NONE, NONE])
    assert same is patch_tokens


def test_images_of_one_number_of_tokens_are_read_together():
    patch_tokens = numbered(4, 3, 4)
    paddings = [NONE, (0, 16, 0, 0), NONE, (16, 0, 0, 0)]
    half, whole = without_padding(patch_tokens, (24, 32), paddings)
    assert half.grid_shape == whole.grid_shape == (3, 4)
    assert half.tokens[:, 0, 0].tolist() == [1, 3] and whole.tokens[:, 0, 0].tolist() == [0, 2]
    left, right = [0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]
    assert half.indices.tolist() == [left, right]
    for group in half, whole:
        assert torch.equal(group.tokens[..., 1].long(), group.indices)


def test_of_some_patches_those_in_the_padding_are_left_out():
    indices = torch.tensor([[0, 7, 2], [11, 3, 7], [1, 4, 5]])
    swapped = torch.tensor([[True, False, False], [True, True, True], [False, True, False]])
    patch_tokens = numbered(3, 3, 4, indices, SwappedTokens, swapped=swapped)
    one, three = without_padding(patch_tokens, (24, 32), [(0, 16, 0, 0)] * 3)
    assert one.indices.tolist() == [[0]] and one.swapped.tolist() == [[True]]
    # The second image has no patch left.
    assert three.tokens[:, 0, 0].tolist() == [2] and three.indices.tolist() == [[1, 4, 5]]
    assert three.swapped.tolist() == [[False, True, False]]
