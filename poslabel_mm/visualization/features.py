"""Patch tokens as pictures: principal components, attention of the class token, similarity.

Shape letters: B images, C channels, (H, W) patch grid, N = H·W patches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.wrappers import unwrapped
from poslabel_mm.visualization.sheet import (
    frame_patches,
    make_sheet,
    set_title,
    show_image,
    show_values,
    wrapped,
)


def principal_colours(tokens: Tensor) -> Tensor:
    """The first three principal components of patch tokens, as red, green and blue.

    The components are those of all images together, so that their colours compare. A component's
    sign is such that its largest value is positive.

    Args:
        tokens (Tensor): (B, N, C); with fewer than three channels the others stay grey.

    Returns:
        Tensor: uint8 (B, N, 3). Each component is scaled to its range.
    """
    flat = tokens.detach().flatten(0, 1).double().cpu()
    flat = flat - flat.mean(0)
    directions = torch.linalg.svd(flat, full_matrices=False).Vh[:3]
    components = flat @ directions.T
    components = F.pad(components, (0, 3 - components.shape[1]))
    largest = components.gather(0, components.abs().argmax(0, keepdim=True))
    components = components * torch.where(largest < 0, -1.0, 1.0)
    low, high = components.amin(0), components.amax(0)
    # A component without extent is no component but rounding.
    extent = high - low
    scaled = torch.where(extent > 1e-9 * extent.max(), (components - low) / extent, 0.5)
    return (255 * scaled).round().byte().unflatten(0, tokens.shape[:2])


def similarity(tokens: Tensor, place: int) -> Tensor:
    """Cosine similarity of every patch token to that of a chosen patch.

    Args:
        tokens (Tensor): (B, N, C).
        place (int): The chosen patch, in the flattened grid.

    Returns:
        Tensor: float32 (B, N), from -1 to 1; 1 at the chosen patch.
    """
    normed = F.normalize(tokens.detach().float(), dim=-1)
    return (normed @ normed[:, place].unsqueeze(-1)).squeeze(-1).clamp(-1, 1).cpu()


def why_no_attention(backbone: nn.Module) -> str | None:
    """Why a backbone's class token has no attention to be shown; None if it has.

    It has in MMPretrain's plain ViTs, whose layers are softmax attention over all tokens.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.
    """
    from mmpretrain.models.utils import MultiheadAttention

    backbone = unwrapped(backbone)
    name = type(backbone).__name__
    if not isinstance(getattr(backbone, 'cls_token', None), Tensor):
        return f'{name} has no class token'
    if getattr(backbone, 'is_causal', False):
        return f'the class token of {name} comes first and sees no patch'
    layers = getattr(backbone, 'layers', None)
    attention = getattr(layers[-1], 'attn', None) if layers is not None and len(layers) else None
    if not isinstance(attention, MultiheadAttention):
        return f'{name} has no plain self-attention in its last layer'
    return None


@contextmanager
def class_attention(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """A context that reads the class token's attention in the last layer.

    Args:
        backbone (nn.Module): One that :func:`why_no_attention` has nothing against.

    Yields:
        list[Tensor]: Of every pass of the backbone float32 (B, heads, n), the attention of the
        class token to all n tokens; class and distillation tokens come first.
    """
    attention = unwrapped(backbone).layers[-1].attn
    read: list[Tensor] = []

    def on_call(module: nn.Module, inputs: tuple) -> None:
        (tokens,) = inputs
        B, n, _ = tokens.shape
        q, k, _ = module.qkv(tokens).reshape(B, n, 3, module.num_heads, -1).unbind(2)
        scores = torch.einsum('bhc,bnhc->bhn', q[:, 0], k) * q.shape[-1] ** -0.5
        read.append(scores.detach().float().softmax(-1).cpu())

    hook = attention.register_forward_pre_hook(on_call)
    try:
        yield read
    finally:
        hook.remove()


class FeatureRow(NamedTuple):
    """What one model makes of one image, a row of the picture.

    Attributes:
        label (str): The model.
        colours (np.ndarray): uint8 (N, 3), of :func:`principal_colours`.
        similarity (np.ndarray): (N, ), to the chosen patch.
        attention (np.ndarray | str): (N, ), the mean over the heads, or why there is none.
    """

    label: str
    colours: np.ndarray
    similarity: np.ndarray
    attention: np.ndarray | str


def draw_features(
    name: str,
    image: np.ndarray,
    place: int,
    rows: Sequence[FeatureRow],
    grid_shape: GridShape,
) -> Figure:
    """Draw the features of an image's patches.

    Args:
        name (str): The image's.
        image (np.ndarray): uint8 (height, width, 3), RGB.
        place (int): The chosen patch, in the flattened grid.
        rows (Sequence[FeatureRow]): One a model.
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        Figure: The picture.
    """
    H, W = grid_shape
    row_of, column_of = divmod(place, W)
    # The colours of two models compare.
    lowest = min(0.0, *(float(row.similarity.min()) for row in rows))
    attended = [100 * row.attention for row in rows if not isinstance(row.attention, str)]
    most = max((float(percent.max()) for percent in attended), default=0.0)
    figure, axes = make_sheet(
        f'Patch tokens of {name}',
        [row.label for row in rows],
        bars=[False, False, True, True],
    )
    for row, panels in zip(rows, axes):
        show_image(panels[0], image, grid_shape)
        set_title(panels[0], f'image; framed: the patch in row {row_of}, column {column_of}')
        show_image(panels[1], row.colours.reshape(H, W, 3), grid_shape)
        set_title(panels[1], 'first three principal components')
        if isinstance(row.attention, str):
            reason = wrapped(row.attention, 2, 9)
            panels[2].text(0, 0, reason, ha='center', va='center', fontsize=9)
            panels[2].set(xlim=(-1, 1), ylim=(-1, 1))
            set_title(panels[2], 'no attention of a class token')
        else:
            percent = 100 * row.attention.reshape(H, W)
            show_values(panels[2], percent, 0, most, 'class token attention, %')
        values = row.similarity.reshape(H, W)
        show_values(panels[3], values, lowest, 1, 'cosine similarity to the framed patch')
        for panel in panels[0], panels[3]:
            frame_patches(panel, np.array([place]), W)
    return figure
