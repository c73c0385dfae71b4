"""Absolute and relative positional labels of a patch grid.

Pure tensor functions, torch only. Shape letters: H, W the patch grid; N = H·W
its patches in row-major order; B the batch; n the patches of an image that are
present (all N of them, or the visible ones of a masked image).
"""

import torch
from torch import Tensor

from poslabel_mm.options import patch_grid

GridShape = tuple[int, int]


def to_grid_shape(grid: int | GridShape) -> GridShape:
    """Read a grid size as ``(H, W)``; an int is a square grid.

    Raises:
        UserError: If it is not one or two positive integers.
    """
    return patch_grid('grid_size', grid)


def num_absolute(grid_shape: GridShape) -> int:
    """Number of absolute labels, H·W (c in Eq. 4; 196 at 14×14)."""
    H, W = grid_shape
    return H * W


def num_relative(grid_shape: GridShape) -> int:
    """Number of relative labels, (2H−1)(2W−1) (729 at 14×14)."""
    H, W = grid_shape
    return (2 * H - 1) * (2 * W - 1)


def num_axial(grid_shape: GridShape) -> tuple[int, int]:
    """Number of row offsets and of column offsets, 2H−1 and 2W−1 (27, 27 at 14×14)."""
    H, W = grid_shape
    return 2 * H - 1, 2 * W - 1


def absolute_labels(
    grid_shape: GridShape, indices: Tensor | None = None, device: str | torch.device | None = None
) -> Tensor:
    """Absolute positional labels y_i = row·W + col (Sec. 3.1).

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        indices (Tensor, optional): Which patches are present, int64 of shape
            (B, n) with values in [0, N). Defaults to None, all N in order.
        device (torch.device | str, optional): Where to make the labels.
            Defaults to the device of ``indices``, or torch's default.

    Returns:
        Tensor: int64 labels in [0, N), of shape (N,), or (B, n) with indices.
    """
    if indices is None:
        return torch.arange(num_absolute(grid_shape), device=device)
    return indices.to(device=device or indices.device, dtype=torch.int64)


def rows_and_columns(places: Tensor, grid_shape: GridShape) -> Tensor:
    """Row and column of flattened places, in patches.

    Args:
        places (Tensor): int64 of any shape, values in [0, N).
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        Tensor: int64, with a last dimension of 2 added: row, column.
    """
    W = grid_shape[1]
    row = places.div(W, rounding_mode='floor')
    return torch.stack([row, places - row * W], dim=-1)


def relative_labels(
    grid_shape: GridShape, indices: Tensor | None = None, device: str | torch.device | None = None
) -> Tensor:
    """Relative positional labels of all ordered pairs (Sec. 3.2, Eq. 9).

    Swin's one-dimensional relative position index,
    y_ij = (row_i − row_j + H − 1)·(2W − 1) + (col_i − col_j + W − 1).

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        indices (Tensor, optional): Which patches are present, int64 of shape
            (B, n) with values in [0, N). Defaults to None, all N in order.
        device (torch.device | str, optional): Where to make the labels.
            Defaults to the device of ``indices``, or torch's default.

    Returns:
        Tensor: int64 labels in [0, (2H−1)(2W−1)), of shape (N, N), or
        (B, n, n) with indices. Entry [i, j] is patch i as seen from patch j.
    """
    query, key = relative_codes(grid_shape, indices, device)
    return query.unsqueeze(-1) + key.unsqueeze(-2)


def relative_codes(
    grid_shape: GridShape, indices: Tensor | None = None, device: str | torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """What each patch of a pair adds to the relative label of the pair.

    The label is linear in the two places, so that y_ij = query_i + key_j: the
    labels of all pairs in the memory of one row.

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        indices (Tensor, optional): Which patches are present, int64 of shape
            (B, n) with values in [0, N). Defaults to None, all N in order.
        device (torch.device | str, optional): Where to make the codes.
            Defaults to the device of ``indices``, or torch's default.

    Returns:
        tuple[Tensor, Tensor]: int64 query and key codes, each of shape (N,),
        or (B, n) with indices.
    """
    H, W = grid_shape
    place = absolute_labels(grid_shape, indices, device)
    row = place.div(W, rounding_mode='floor')
    code = row * (2 * W - 1) + (place - row * W)
    centre = (H - 1) * (2 * W - 1) + (W - 1)  # the label of offset (0, 0)
    return code + centre, -code


def patch_centres(
    grid_shape: GridShape,
    indices: Tensor | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Where the patches' centres lie in the image, from −1 to 1 along each side.

    Row (2·row + 1) / H − 1, and the same for columns.

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        indices (Tensor, optional): Which patches are present, int64 of shape
            (B, n) with values in [0, N). Defaults to None, all N in order.
        device (torch.device | str, optional): Where to make the result.
            Defaults to the device of ``indices``, or torch's default.
        dtype (torch.dtype): Of the result. Defaults to float32.

    Returns:
        Tensor: Row and column, of shape (N, 2), or (B, n, 2) with indices.
    """
    H, W = grid_shape
    place = absolute_labels(grid_shape, indices, device)
    row = place.div(W, rounding_mode='floor')
    return torch.stack(
        [(2 * at + 1).to(dtype) / side - 1 for at, side in ((row, H), (place - row * W, W))],
        dim=-1,
    )


def axial_codes(
    grid_shape: GridShape, indices: Tensor | None = None, device: str | torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """What each patch of a pair adds to the row and the column offset of the pair.

    The relative label as two, row_i − row_j + H − 1 and col_i − col_j + W − 1, each of which is
    query_i + key_j.

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        indices (Tensor, optional): Which patches are present, int64 of shape
            (B, n) with values in [0, N). Defaults to None, all N in order.
        device (torch.device | str, optional): Where to make the codes.
            Defaults to the device of ``indices``, or torch's default.

    Returns:
        tuple[Tensor, Tensor]: int64 query and key codes, each of shape (N, 2),
        or (B, n, 2) with indices: of the row and of the column.
    """
    H, W = grid_shape
    place = rows_and_columns(absolute_labels(grid_shape, indices, device), grid_shape)
    return torch.stack([place[..., 0] + (H - 1), place[..., 1] + (W - 1)], dim=-1), -place


def relative_offsets(labels: Tensor, grid_shape: GridShape) -> Tensor:
    """Row and column offsets that relative labels stand for.

    Args:
        labels (Tensor): int64 of any shape, values in [0, (2H−1)(2W−1)).
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        Tensor: int64, with a last dimension of 2 added: row_i − row_j, col_i − col_j.
    """
    return axial_offsets(rows_and_columns(labels, num_axial(grid_shape)), grid_shape)


def axial_offsets(labels: Tensor, grid_shape: GridShape) -> Tensor:
    """Row and column offsets that axial labels stand for.

    Args:
        labels (Tensor): int64 of shape (..., 2), of the row and of the column.
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        Tensor: int64 of the same shape: row_i − row_j, col_i − col_j.
    """
    H, W = grid_shape
    return labels - labels.new_tensor([H - 1, W - 1])


def rescaled_positions(
    grid_shape: GridShape,
    target_shape: GridShape,
    indices: Tensor | None = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """Places of another grid that the patches' centres fall into.

    Row ⌊(row + ½) · H_target / H⌋, and the same for columns.

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        target_shape (tuple[int, int]): The grid to map into.
        indices (Tensor, optional): Which patches are present, int64 of shape
            (B, n) with values in [0, N). Defaults to None, all N in order.
        device (torch.device | str, optional): Where to make the result.
            Defaults to the device of ``indices``, or torch's default.

    Returns:
        Tensor: int64 places in the flattened target grid, of shape (N,), or
        (B, n) with indices.
    """
    (H, W), (H_target, W_target) = grid_shape, target_shape
    place = absolute_labels(grid_shape, indices, device)
    row = place.div(W, rounding_mode='floor')
    col = place - row * W
    # In whole numbers: a centre on a border must not depend on rounding.
    row = ((2 * row + 1) * H_target).div(2 * H, rounding_mode='floor')
    col = ((2 * col + 1) * W_target).div(2 * W, rounding_mode='floor')
    return row * W_target + col
