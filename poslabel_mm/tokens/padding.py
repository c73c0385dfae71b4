"""Which patches of a padded batch show a part of their image.

Shape letters: B batch, n tokens of an image, (H, W) patch grid, N = H·W.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from poslabel_mm.tokens.labels import GridShape, absolute_labels
from poslabel_mm.tokens.reader import PatchTokens, SwappedTokens

Padding = tuple[int, int, int, int]


def without_padding(
    patch_tokens: PatchTokens, input_shape: tuple[int, int], paddings: Sequence[Padding]
) -> list[PatchTokens]:
    """The tokens of the patches that show at least one pixel of their image.

    Args:
        patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and their indices if not all are
            present.
        input_shape (tuple[int, int]): Height and width of the padded images in pixels.
        paddings (Sequence[tuple]): For every image the pixels added on the left, on the right, at
            the top and at the bottom.

    Returns:
        list[PatchTokens]: The images in groups of one number of tokens, the smallest first. An
        image that has no such token is left out.
    """
    if not any(map(any, paddings)):
        return [patch_tokens]
    tokens, grid_shape, indices = patch_tokens
    shown = shows_image(grid_shape, input_shape, paddings, tokens.device)  # [B, N]
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


def shows_image(
    grid_shape: GridShape,
    input_shape: tuple[int, int],
    paddings: Sequence[Padding],
    device: torch.device | str | None = None,
) -> Tensor:
    """Which patches show at least one pixel of their image.

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        input_shape (tuple[int, int]): As of :func:`without_padding`.
        paddings (Sequence[tuple]): As of :func:`without_padding`.
        device (torch.device | str, optional): Where the answer is made.

    Returns:
        Tensor: bool of shape (B, N).
    """
    left, right, top, bottom = torch.tensor(paddings, device=device).T.unsqueeze(-1)  # [B, 1]
    (H, W), (height, width) = grid_shape, input_shape
    rows = _overlap(H, height, top, height - bottom)
    columns = _overlap(W, width, left, width - right)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).flatten(1)


def _overlap(count: int, size: int, first: Tensor, end: Tensor) -> Tensor:
    """Which of `count` equal parts of `size` pixels have one from `first` on, before `end`."""
    part = torch.arange(count, device=first.device)
    # In whole numbers: part i is from i * size / count to (i + 1) * size / count.
    return ((part + 1) * size > first * count) & (part * size < end * count)
