"""Which patches of a padded batch the position heads read."""

import pytest
import torch
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmpretrain.models.backbones import HiViT, ResNet, SwinTransformer, VisionTransformer
from torch import nn

from poslabel_mm.models.backbones import PositionalSwinTransformer
from poslabel_mm.tokens import PatchTokens, SwappedTokens
from poslabel_mm.tokens.built import built_tokens
from poslabel_mm.tokens.padding import on_own_grids, shows_image, without_padding

NONE = (0, 0, 0, 0)
SMALL = dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8)
SMALL_HIVIT = dict(embed_dims=32, depths=[1, 1, 7], num_heads=2)
SMALL_SWIN = dict(embed_dims=8, depths=[1] * 3, num_heads=[1] * 3)


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


@pytest.mark.parametrize(
    'strides, padding, input_shape',
    [
        ([16], 'corner', (512, 769)),  # 49 columns
        ([16], 'corner', (33, 100)),
        ([14], 'corner', (518, 512)),
        ([7], 'corner', (28, 28)),
        ([4, 2, 2, 2], 'corner', (500, 744)),  # 744 is 24 x 31 too
        ([4, 2, 2, 2], 'corner', (769, 769)),
        ([4, 2, 2, 2], 0, (769, 769)),  # the rest is dropped
        ([16], 0, (40, 75)),
    ],
)
def test_the_patches_are_those_of_a_real_embedding(strides, padding, input_shape):
    """Of images that are ones, padded with zeros."""
    embedding = nn.Sequential(
        *(
            PatchEmbed(1, 1, kernel_size=stride, stride=stride, padding=padding, bias=False)
            for stride in strides
        )
    )
    for parameter in embedding.parameters():
        nn.init.ones_(parameter)
    for cut in 1, 15, 16, 17, strides[0] * 2 + 1:
        height, width = input_shape[0] - cut // 2, input_shape[1] - cut
        left = cut // 4
        image = torch.zeros(1, 1, *input_shape)
        image[..., :height, left:width] = 1
        shown, grid_shape = image, input_shape
        for part in embedding:
            tokens, grid_shape = part(shown)
            shown = tokens.mT.unflatten(2, grid_shape)
        paddings = [(left, cut, 0, cut // 2)]
        assert torch.equal(shows_image(grid_shape, input_shape, paddings), shown.flatten(1) > 0)


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


def test_a_patch_is_at_its_place_in_the_image_alone():
    patch_tokens = numbered(4, 3, 4)
    shapes = [(24, 32), (16, 20), (24, 32), (17, 17)]
    whole, two_by_three, three_by_three = on_own_grids(patch_tokens, (24, 32), shapes)
    assert whole.grid_shape == (3, 4) and whole.indices is None
    assert whole.tokens[:, 0, 0].tolist() == [0, 2]
    assert two_by_three.grid_shape == (2, 3)
    assert two_by_three.tokens[0].tolist() == [[1, place] for place in (0, 1, 2, 4, 5, 6)]
    assert two_by_three.indices.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert three_by_three.grid_shape == (3, 3)
    assert three_by_three.tokens[0, :, 1].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert three_by_three.indices.tolist() == [list(range(9))]


def test_of_some_patches_those_of_the_image_are_at_their_places():
    indices = torch.tensor([[0, 7, 2], [11, 3, 6]])
    swapped = torch.tensor([[True, False, False], [True, True, False]])
    patch_tokens = numbered(2, 3, 4, indices, SwappedTokens, swapped=swapped)
    one, two = on_own_grids(patch_tokens, (24, 32), [(16, 24)] * 2)
    assert one.grid_shape == two.grid_shape == (2, 3)
    assert one.tokens.tolist() == [[[1, 6]]] and one.indices.tolist() == [[5]]
    assert two.indices.tolist() == [[0, 2]] and two.swapped.tolist() == [[True, False]]


@pytest.mark.parametrize(
    'input_shape, grid_shape, images',
    [
        ((12, 12), (2, 2), {(8, 12): (1, 2), (9, 3): (2, 1), (12, 12): (2, 2)}),  # as if of 6x6
        ((40, 75), (5, 9), {(40, 75): (5, 9), (33, 75): (5, 9)}),  # the rest is dropped
    ],
)
def test_a_stride_that_is_known_is_not_guessed(input_shape, grid_shape, images):
    patch_tokens = numbered(len(images), *grid_shape)
    groups = on_own_grids(patch_tokens, input_shape, list(images), stride=(8, 8))
    grids = {int(image): group.grid_shape for group in groups for image in group.tokens[:, 0, 0]}
    assert [grids[i] for i in range(len(images))] == list(images.values())


class VisionTransformerOfItsOwn(VisionTransformer):
    """It tells the grid alone, and so its tokens' number and width."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        del self.img_size
        self.patch_embed = nn.Identity()


@pytest.mark.parametrize(
    'backbone, stage, stride',
    [
        (VisionTransformer(SMALL, img_size=(32, 48), patch_size=8), None, (8, 8)),
        (SwinTransformer(SMALL_SWIN, img_size=64, out_indices=(2,)), None, (16, 16)),
        (SwinTransformer(SMALL_SWIN, img_size=64, out_indices=(2,)), 1, (8, 8)),
        (PositionalSwinTransformer(SMALL_SWIN, img_size=64, out_indices=(2,)), None, (8, 8)),
        (HiViT(SMALL_HIVIT, img_size=64, patch_size=8, inner_patches=2), None, (8, 8)),
        (VisionTransformerOfItsOwn(SMALL, img_size=32, patch_size=8), None, None),
        (ResNet(18), None, None),
    ],
    ids=['vit', 'swin', 'second stage of swin', 'modified swin', 'hivit', 'untold', 'unknown'],
)
def test_backbones_tell_their_stride(backbone, stage, stride):
    assert built_tokens(backbone, stage).stride == stride
