"""Which patches of a padded batch show a part of their image, and where in it they are.

Shape letters: B batch, n tokens of an image, (H, W) patch grid, N = H·W.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from poslabel_mm.tokens.labels import GridShape, absolute_labels
from poslabel_mm.tokens.reader import PatchTokens, SwappedTokens

Padding = tuple[int, int, int, int]


def without_padding(
    patch_tokens: PatchTokens,
    input_shape: tuple[int, int],
    paddings: Sequence[Padding],
    stride: tuple[int, int] | None = None,
) -> list[PatchTokens]:
    """The tokens of the patches that show at least one pixel of their image.

    Args:
        patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and their indices if not all are
            present.
        input_shape (tuple[int, int]): Height and width of the padded images in pixels.
        paddings (Sequence[tuple]): For every image the pixels added on the left, on the right, at
            the top and at the bottom.
        stride (tuple[int, int], optional): How many pixels, down and across, a patch is from the
            next one. Defaults to None: what fits the grid and the input.

    Returns:
        list[PatchTokens]: The images, grouped by their number of tokens, in ascending order. An
        image that has no such token is left out.
    """
    if not any(map(any, paddings)):
        return [patch_tokens]
    tokens, grid_shape, indices, *_ = patch_tokens
    shown = shows_image(grid_shape, input_shape, paddings, tokens.device, stride)  # [B, N]
    if indices is not None:
        shown = shown.gather(1, indices)  # [B, n]
    places = absolute_labels(grid_shape, indices, tokens.device).expand(tokens.shape[:2])
    counts = shown.sum(dim=1)  # [B]
    groups = []
    for count in counts[counts > 0].unique().tolist():
        images = (counts == count).nonzero()  # [b, 1]
        own = shown[images[:, 0]].nonzero()[:, 1].view(-1, count)  # [b, count]
        group = PatchTokens(tokens[images, own], grid_shape, places[images, own])
        if isinstance(patch_tokens, SwappedTokens):
            group = SwappedTokens(*group, swapped=patch_tokens.swapped[images, own])
        groups.append(group)
    return groups


def on_own_grids(
    patch_tokens: PatchTokens,
    input_shape: tuple[int, int],
    image_shapes: Sequence[tuple[int, int]],
    stride: tuple[int, int] | None = None,
) -> list[PatchTokens]:
    """The tokens of each image on the grid that it has without the batch's padding.

    So a patch is where it would be if its image came alone, whatever the batch is padded to.

    Args:
        patch_tokens (PatchTokens): As of :func:`without_padding`.
        input_shape (tuple[int, int]): As of :func:`without_padding`.
        image_shapes (Sequence[tuple[int, int]]): Height and width of every image in pixels, which
            is in the upper left corner of the padded one.
        stride (tuple[int, int], optional): As of :func:`without_padding`.

    Returns:
        list[PatchTokens]: The images, grouped by their grid and their number of tokens. An image
        that has no such token is left out.
    """
    H, W = patch_tokens.grid_shape
    height, width = input_shape
    vertical, horizontal = stride or _strides((H, W), input_shape)
    images = {}
    for image, (h, w) in enumerate(image_shapes):
        own_grid = min(-(-h // vertical), H), min(-(-w // horizontal), W)
        images.setdefault(own_grid, []).append(image)
    groups = []
    for (rows, columns), own in images.items():
        of_images = type(patch_tokens)(
            *(part[own] if isinstance(part, Tensor) else part for part in patch_tokens)
        )
        padding = 0, max(width - columns * horizontal, 0), 0, max(height - rows * vertical, 0)
        for group in without_padding(of_images, input_shape, [padding] * len(own), stride):
            if (rows, columns) != (H, W):
                row = group.indices.div(W, rounding_mode='floor')
                places = group.indices - row * (W - columns)
                group = group._replace(grid_shape=(rows, columns), indices=places)
            groups.append(group)
    return groups


def shows_image(
    grid_shape: GridShape,
    input_shape: tuple[int, int],
    paddings: Sequence[Padding],
    device: torch.device | str | None = None,
    stride: tuple[int, int] | None = None,
) -> Tensor:
    """Which patches show at least one pixel of their image.

    Assumed are patches of whole pixels from the upper left corner on, as every known backbone has
    them: one that pads does so on the right and at the bottom. Where patches overlap, the pixels
    of a patch are those of its stride.

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        input_shape (tuple[int, int]): As of :func:`without_padding`.
        paddings (Sequence[tuple]): As of :func:`without_padding`.
        device (torch.device | str, optional): Where the answer is made.
        stride (tuple[int, int], optional): As of :func:`without_padding`.

    Returns:
        Tensor: bool of shape (B, N).
    """
    left, right, top, bottom = torch.tensor(paddings, device=device).T.unsqueeze(-1)  # [B, 1]
    (H, W), (height, width) = grid_shape, input_shape
    vertical, horizontal = stride or _strides(grid_shape, input_shape)
    rows = _overlap(H, vertical, top, height - bottom)
    columns = _overlap(W, horizontal, left, width - right)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).flatten(1)


def _strides(grid_shape: GridShape, input_shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a patch in pixels.

    A grid that does not divide the input tells them only roughly. A backbone that fills up or
    drops the rest of the input has a grid that differs from it by less than a patch. Of the sizes
    of square patches for which that holds, the one that two divides most often is taken: strides
    are products of twos.
    """
    pairs = list(zip(input_shape, grid_shape, strict=True))
    if all(size % count == 0 for size, count in pairs):
        return tuple(size // count for size, count in pairs)

    def square(stride):
        return all(abs(size - stride * count) < stride for size, count in pairs)

    strides = [stride for stride in range(1, max(input_shape) + 1) if square(stride)]
    if strides:
        return (max(strides, key=lambda stride: stride & -stride),) * 2
    return tuple(max(size // count, 1) for size, count in pairs)


def _overlap(count: int, stride: int, first: Tensor, end: Tensor) -> Tensor:
    """Which of `count` patches of `stride` pixels have one from `first` on, before `end`."""
    start = torch.arange(count, device=first.device) * stride
    return (start + stride > first) & (start < end)
