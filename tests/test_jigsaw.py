"""The jigsaw: shuffling, the solver, what becomes of the encoding, and the picture."""

import itertools

import numpy as np
import pytest
import torch
from backbones import OTHERS, TIMM, TRANSFORMERS
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS
from models import tiny_vit
from pixels import pixel

from poslabel_mm import UserError
from poslabel_mm.tokens import PatchTokenReader, PlacePredictions
from poslabel_mm.tokens.shuffled import shuffle_patches
from poslabel_mm.visualization import jigsaw
from poslabel_mm.visualization.look import ENCODINGS
from poslabel_mm.visualization.sheet import render

pytestmark = pytest.mark.computes
GRID = 4, 4


def images_of_places(grid_shape, patch=(2, 3)):
    """An image whose pixels hold the place of their patch, (3, height, width)."""
    H, W = grid_shape
    places = np.arange(H * W).reshape(H, W)
    return torch.from_numpy(np.kron(places, np.ones(patch, dtype=np.uint8))).expand(3, -1, -1)


def perfect(order, grid_shape=GRID):
    """What a model predicts that knows where every patch of a shuffled image was taken from."""
    probabilities = torch.nn.functional.one_hot(order, len(order)).float()[None]
    coordinates = torch.zeros(1, len(order), 2)
    return PlacePredictions(grid_shape, torch.arange(len(order))[None], coordinates, probabilities)


@pytest.mark.parametrize('grid_shape', [(4, 4), (3, 5), (1, 7), (14, 14)])
def test_every_slot_shows_the_patch_of_the_order(grid_shape):
    image, N = images_of_places(grid_shape), grid_shape[0] * grid_shape[1]
    order = torch.randperm(N)
    shuffled = shuffle_patches(image, order, grid_shape)
    assert shuffled[0, ::2, ::3].flatten().tolist() == order.tolist()
    assert torch.equal(shuffle_patches(image, torch.arange(N), grid_shape), image)
    assert torch.equal(jigsaw.put_back(shuffled, order, grid_shape), image)


def test_pixels_within_a_patch_stay_in_order():
    image = torch.arange(16).reshape(1, 4, 4)
    shuffled = shuffle_patches(image, torch.tensor([3, 0, 1, 2]), (2, 2))
    assert shuffled.tolist() == [[[10, 11, 0, 1], [14, 15, 4, 5], [2, 3, 8, 9], [6, 7, 12, 13]]]


def test_an_image_that_the_grid_does_not_divide_is_refused():
    with pytest.raises(UserError, match='15x16 px cannot be cut into 4x4 .* multiples of 4 and 4'):
        shuffle_patches(torch.zeros(3, 15, 16), torch.arange(16), GRID)


@pytest.mark.parametrize('grid_shape', [(4, 4), (14, 14)])
def test_a_perfect_model_solves_it(grid_shape):
    image = images_of_places(grid_shape)
    order = torch.randperm(grid_shape[0] * grid_shape[1])
    (places,) = jigsaw.solve(perfect(order, grid_shape).costs())
    assert torch.equal(places, order)
    shuffled = shuffle_patches(image, order, grid_shape)
    assert torch.equal(jigsaw.put_back(shuffled, places, grid_shape), image)


def test_random_logits_are_at_chance():
    order = torch.randperm(36)
    places = jigsaw.solve(torch.rand(500, 36, 36))
    right = (places == order).float().mean().item() * 36
    assert right == pytest.approx(1, abs=0.15)  # of 36 patches; its deviation is 0.045


def test_the_assignment_is_the_cheapest_of_all():
    costs = torch.rand(20, 6, 6)
    orders = torch.tensor(list(itertools.permutations(range(6))))
    of_all = costs[:, torch.arange(6), orders].sum(-1)  # (images, permutations)
    places = jigsaw.solve(costs)
    assert torch.equal(places, orders[of_all.argmin(1)])
    # Not what every patch would choose by itself.
    assert not torch.equal(places, costs.argmin(-1))


def test_the_assignment_is_exact_at_14x14():
    """Costs with a known optimum: prices of patches and places, and what is saved nowhere else."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randperm(196, generator=generator)
    patches, places = torch.randn(2, 196, generator=generator, dtype=torch.float64)
    slack = torch.rand(196, 196, generator=generator, dtype=torch.float64) / 100 + 1e-6
    slack[torch.arange(196), hidden] = 0
    costs = patches[:, None] + places + slack
    # Every permutation costs the prices and its slack, which is 0 for the hidden one alone.
    assert torch.equal(jigsaw.solve(costs[None])[0], hidden)
    assert not torch.equal(costs.argmin(1), hidden)


def test_patches_of_which_some_are_missing_get_places_of_their_own():
    places = jigsaw.solve(torch.rand(3, 5, 16))
    assert places.shape == (3, 5) and all(len(set(row.tolist())) == 5 for row in places)


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(UserError, match='predicts NaN or infinite'):
        jigsaw.solve(torch.full((1, 4, 4), torch.nan))


# ---------------------------------------------------------------------------------- the encoding


def backbone(**kwargs):
    model = MODELS.build(tiny_vit(**kwargs))
    model.init_weights()
    with torch.no_grad():
        if model.pos_embed.any():
            model.pos_embed.normal_()
            model.cls_token.normal_()
    model.eval()  # returns nothing
    return model


@torch.no_grad()
def tokens_of(model, images):
    with PatchTokenReader(model) as reader:
        model(images)
    return reader.take().tokens


def shuffled_tokens(model, how):
    """Tokens of an image, of the shuffled one with the encoding as asked for, and the order."""
    image, order = torch.randn(1, 3, 16, 16), torch.randperm(16)
    shuffled = shuffle_patches(image, order, GRID)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with jigsaw.encoding_as(model, how, order, GRID):
        tokens = tokens_of(model, shuffled)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    return tokens_of(model, image), tokens, tokens_of(model, shuffled), order


def test_an_encoding_shuffled_along_shuffles_the_tokens_alone():
    original, tokens, _, order = shuffled_tokens(backbone(), 'shuffled')
    torch.testing.assert_close(tokens, original[:, order])


def test_an_encoding_that_is_kept_tells_the_slots():
    original, tokens, _, order = shuffled_tokens(backbone(), 'kept')
    assert not torch.allclose(tokens, original[:, order], atol=1e-2)


def test_a_removed_encoding_is_that_of_no_patch():
    model = backbone()
    _, tokens, plain, order = shuffled_tokens(model, 'removed')
    assert not torch.allclose(tokens, plain)
    torch.manual_seed(7)
    image = torch.randn(1, 3, 16, 16)
    with jigsaw.encoding_as(model, 'removed', order, GRID):
        moved = shuffle_patches(image, order, GRID)
        torch.testing.assert_close(tokens_of(model, moved), tokens_of(model, image)[:, order])
        assert model.pos_embed[:, 0].any()  # the class token's stays
        assert not model.pos_embed[:, 1:].any()


def test_the_encoding_is_put_back_after_an_error():
    model = backbone()
    before = model.pos_embed.clone()
    with (
        pytest.raises(ZeroDivisionError),
        jigsaw.encoding_as(model, 'removed', torch.arange(16), GRID),
    ):
        1 / 0  # noqa: B018
    assert torch.equal(model.pos_embed, before)


def test_the_heading_says_what_becomes_of_the_encoding():
    assert tuple(jigsaw.ENCODINGS) == ENCODINGS
    model = backbone()
    texts = {jigsaw.describe_encoding(model, how) for how in ENCODINGS}
    assert texts == set(jigsaw.ENCODINGS.values()) and len(texts) == 3
    without = backbone(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none')
    for how in ENCODINGS:
        assert jigsaw.describe_encoding(without, how) == 'the model has no positional encoding'
        original, tokens, _, order = shuffled_tokens(without, how)
        torch.testing.assert_close(tokens, original[:, order])


BACKBONES = TRANSFORMERS | OTHERS | TIMM
PLAIN = {
    'VisionTransformer',
    'DistilledVisionTransformer',
    'DeiT3',
    'HiViT',
    'RevVisionTransformer',
    'TIMMBackbone, ViT',
}


@pytest.mark.parametrize('name', BACKBONES)
def test_positions_in_the_layers_can_only_be_kept(name):
    model = MODELS.build(BACKBONES[name]['model']['backbone'])
    if name in PLAIN:
        model.eval()
        encoding = getattr(model, 'timm_model', model).pos_embed
        encoding.data.zero_()
        assert jigsaw.describe_encoding(model, 'removed') == jigsaw.NO_ENCODING
        encoding.data.normal_(generator=torch.Generator().manual_seed(0))
        assert jigsaw.describe_encoding(model, 'removed') == jigsaw.ENCODINGS['removed']
        image, order = torch.randn(1, 3, 64, 64), torch.randperm(16)
        with jigsaw.encoding_as(model, 'shuffled', order, GRID):
            tokens = tokens_of(model, shuffle_patches(image, order, GRID))
        torch.testing.assert_close(tokens, tokens_of(model, image)[:, order], atol=1e-3, rtol=1e-3)
        return
    assert jigsaw.describe_encoding(model, 'kept') == jigsaw.LAYERS_KEPT
    for how in 'removed', 'shuffled':
        with pytest.raises(UserError, match=f'has positions in its layers.* cannot be {how}: '):
            with jigsaw.encoding_as(model, how, torch.arange(16), GRID):
                pass


@pytest.mark.parametrize(
    'change',
    [
        dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='rope'),
        dict(type='PositionalConvolutions'),
    ],
)
def test_positions_of_a_plain_vit_with_more_than_an_encoding(change):
    model = MODELS.build(tiny_vit(**change))
    assert jigsaw.describe_encoding(model, 'kept') == jigsaw.LAYERS_KEPT


@MODELS.register_module(force=True)
class PositionalConvolutions(VisionTransformer):
    """A ViT without encoding, beside a convolution that pads."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pos_embed = torch.nn.Parameter(torch.zeros_like(self.pos_embed))
        self.convolution = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)


def test_beit_is_plain_without_its_biases():
    parts = dict(BACKBONES['BEiTViT']['model']['backbone'], use_rel_pos_bias=False)
    model = MODELS.build(parts | dict(use_abs_pos_emb=True, use_shared_rel_pos_bias=False))
    model.pos_embed.data.normal_()
    assert jigsaw.describe_encoding(model, 'removed') == jigsaw.ENCODINGS['removed']


def test_an_encoding_of_another_grid_is_refused():
    with pytest.raises(UserError, match='of another grid than the 2x2 patches'):
        with jigsaw.encoding_as(backbone(), 'removed', torch.arange(4), (2, 2)):
            pass


# ----------------------------------------------------------------------------------- the picture


def test_the_picture_shows_the_three_images_and_frames_what_is_wrong():
    grid_shape, patch = (2, 3), 8
    colours = np.array(
        [[[200, 0, 0], [0, 200, 0], [0, 0, 200]], [[0, 200, 200], [200, 0, 200], [90, 90, 90]]],
        dtype=np.uint8,
    )
    original = np.kron(colours, np.ones((patch, patch, 1), dtype=np.uint8))
    order = torch.tensor([5, 3, 0, 1, 2, 4])
    places = torch.tensor([5, 3, 1, 0, 2, 4])  # patches 0 and 1 are exchanged
    image = torch.from_numpy(original).permute(2, 0, 1)
    shuffled = shuffle_patches(image, order, grid_shape)
    restored = jigsaw.put_back(shuffled, places, grid_shape)
    row = jigsaw.JigsawRow(
        'a model',
        *(tensor.permute(1, 2, 0).numpy() for tensor in (image, shuffled, restored)),
        order.numpy(),
        places.numpy(),
        ('cat (90 %)', 'dog (20 %)', 'cat (80 %)'),
    )
    figure = jigsaw.draw_jigsaw('photo', jigsaw.ENCODINGS['removed'], [row], grid_shape)
    assert 'positional encoding removed' in ' '.join(figure.texts[0].get_text().split())
    left, middle, right = figure.axes
    assert right.get_title(loc='left').split()[:6] == ['put', 'back:', '4', 'of', '6', 'right']
    assert [axes.get_xlabel() for axes in figure.axes] == [
        'class: cat (90 %)',
        'class: dog (20 %)',
        'class: cat (80 %)',
    ]
    pixels = render(figure)
    flat = colours.reshape(-1, 3).tolist()
    shown = [flat[i] for i in (1, 0, 2, 3, 4, 5)]
    for place in range(6):
        y, x = divmod(place, 3)
        assert pixel(left, x, y, pixels) == flat[place]
        assert pixel(middle, x, y, pixels) == flat[order[place]]
        assert pixel(right, x, y, pixels) == shown[place]
        # On the frame, a little within the patch; only the exchanged ones have one.
        framed = pixel(right, x - 0.46, y, pixels) != shown[place]
        assert framed == (place < 2)
