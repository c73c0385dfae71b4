import pytest
import torch

from poslabel_mm.errors import UserError
from poslabel_mm.tokens.labels import (
    absolute_labels,
    axial_codes,
    axial_offsets,
    num_absolute,
    num_axial,
    num_relative,
    patch_centres,
    relative_codes,
    relative_labels,
    relative_offsets,
    to_grid_shape,
)

pytestmark = pytest.mark.computes

GRIDS = [(1, 1), (1, 5), (4, 1), (3, 3), (2, 5), (14, 14)]


def relative_label(i, j, H, W):
    """Eq. 9's label of one pair, as PAPER's formula says it."""
    row_i, col_i = divmod(i, W)
    row_j, col_j = divmod(j, W)
    return (row_i - row_j + H - 1) * (2 * W - 1) + (col_i - col_j + W - 1)


def test_numbers_of_classes_are_those_of_the_paper():
    assert num_absolute((14, 14)) == 196
    assert num_relative((14, 14)) == 729
    assert num_relative((24, 24)) == 2209


@pytest.mark.parametrize('grid', GRIDS)
def test_absolute_labels_count_row_by_row(grid):
    H, W = grid
    labels = absolute_labels(grid)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [row * W + col for row in range(H) for col in range(W)]


@pytest.mark.parametrize('grid', GRIDS)
def test_relative_labels_against_the_formula(grid):
    H, W = grid
    labels = relative_labels(grid)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [
        [relative_label(i, j, H, W) for j in range(H * W)] for i in range(H * W)
    ]
    assert labels.min() == 0 and labels.max() == num_relative(grid) - 1


def test_relative_labels_are_swins_relative_position_index():
    from mmpretrain.models.utils import WindowMSA

    window = WindowMSA(embed_dims=4, window_size=(5, 5), num_heads=1)
    assert torch.equal(relative_labels((5, 5)), window.relative_position_index)


def test_labels_of_visible_patches():
    grid = (3, 4)
    indices = torch.tensor([[7, 0, 11], [2, 5, 1]])
    assert torch.equal(absolute_labels(grid, indices), indices)
    every = relative_labels(grid)
    expected = torch.stack([every[i][:, i] for i in indices])
    assert torch.equal(relative_labels(grid, indices), expected)


@pytest.mark.parametrize('indices', [None, torch.tensor([[7, 0, 11], [2, 5, 1]])])
def test_codes_add_up_to_the_labels(indices):
    query, key = relative_codes((3, 4), indices)
    labels = relative_labels((3, 4), indices)
    assert query.shape == key.shape == labels.shape[:-1]
    assert torch.equal(query[..., :, None] + key[..., None, :], labels)


def test_labels_are_made_on_the_asked_device():
    meta = torch.device('meta')
    assert absolute_labels((2, 2), device=meta).device == meta
    indices = torch.zeros(1, 2, dtype=torch.int64, device='meta')
    assert relative_labels((2, 2), indices).device == meta


@pytest.mark.parametrize('grid, shape', [(3, (3, 3)), ((2, 5), (2, 5)), ([2, 5], (2, 5))])
def test_grid_size_is_one_side_or_two(grid, shape):
    assert to_grid_shape(grid) == shape


@pytest.mark.parametrize(
    'grid', [0, -1, (2, 0), (2,), (2, 3, 4), (2.0, 3), 14.0, True, None, '14']
)
def test_what_is_no_grid_is_refused(grid):
    with pytest.raises(UserError, match='patch grid'):
        to_grid_shape(grid)


def test_centres_lie_between_the_sides_of_the_image():
    assert patch_centres((2, 4))[:5].tolist() == [
        [-0.5, -0.75],
        [-0.5, -0.25],
        [-0.5, 0.25],
        [-0.5, 0.75],
        [0.5, -0.75],
    ]
    indices = torch.tensor([[5], [0]])
    assert patch_centres((2, 3), indices, dtype=torch.float64).tolist() == [
        [[0.5, 5 / 3 - 1]],
        [[-0.5, 1 / 3 - 1]],
    ]


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('with_indices', [False, True])
def test_axial_codes_add_up_to_both_offsets(grid, with_indices):
    H, W = grid
    indices = torch.randint(H * W, (2, 3)) if with_indices else None
    query, key = axial_codes(grid, indices)
    labels = query.unsqueeze(-2) + key.unsqueeze(-3)
    assert labels.dtype == torch.int64
    assert (labels >= 0).all() and (labels < torch.tensor(num_axial(grid))).all()
    offsets = axial_offsets(labels, grid)
    assert torch.equal(offsets, relative_offsets(relative_labels(grid, indices), grid))
    places = indices if with_indices else torch.arange(H * W)
    for place, offset in zip((places // W, places % W), offsets.unbind(-1)):
        assert torch.equal(offset, place[..., :, None] - place[..., None, :])


def test_numbers_of_axial_classes():
    assert num_axial((14, 14)) == (27, 27) and num_axial((1, 40)) == (1, 79)
