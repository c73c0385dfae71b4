"""The jigsaw: the patches of an image are shuffled in the input, and put where the model says.

Shape letters: B images, C channels, (H, W) patch grid, N = H·W places in row-major order.

An order is an int64 tensor (N, ): slot s of the shuffled image shows patch order[s] of the
original. A patch is put right where the place it is given is order[s].
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.shuffled import shuffle_patches
from poslabel_mm.tokens.wrappers import unwrapped
from poslabel_mm.visualization.sheet import frame_patches, make_sheet, set_title, show_image

# What becomes of the positional encoding while the shuffled image is shown to the model.
ENCODINGS = {
    'kept': 'positional encoding left at its places',
    'removed': 'positional encoding removed',
    'shuffled': 'positional encoding shuffled along with the patches',
}
NO_ENCODING = 'the model has no positional encoding'
LAYERS_KEPT = 'positions in its layers left as they are'
# Families that know positions by `pos_embed` alone, unless a part of the backbone says otherwise.
PLAIN = {'VisionTransformer', 'BEiTViT', 'RevVisionTransformer', 'HiViT'}
IN_LAYERS = re.compile(r'relative_|rel_pos|attention_bias|rope|freqs_|(^|\.)cpe\d*(\.|$)')


# ------------------------------------------------------------------------------ shuffle and solve


def solve(costs: Tensor) -> Tensor:
    """Give every patch a place of its own, at the least total cost (optimal assignment).

    Args:
        costs (Tensor): (B, n, N), what it costs to put each patch at each place, n at most N; see
            :meth:`~poslabel_mm.tokens.PlacePredictions.costs`.

    Returns:
        Tensor: int64 (B, n), the places; no two patches of an image share one.

    Raises:
        UserError: If a cost is not a finite number.
    """
    if not costs.isfinite().all():
        raise UserError('the position head predicts NaN or infinite values: nothing can be solved')
    solved = [linear_sum_assignment(cost)[1] for cost in costs.detach().double().cpu().numpy()]
    return torch.as_tensor(np.stack(solved), dtype=torch.int64)


def put_back(shuffled: Tensor, places: Tensor, grid_shape: GridShape) -> Tensor:
    """Move the patch in every slot to the place that it was given.

    Args:
        shuffled (Tensor): Shuffled images (..., height, width).
        places (Tensor): int64 (N, ), a place for the patch in each slot, each place once.
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        Tensor: The restored images, of the same shape.
    """
    return shuffle_patches(shuffled, places.argsort(), grid_shape)


# ----------------------------------------------------------------------------------- the encoding


def find_encoding(backbone: nn.Module) -> Tensor | None:
    """The encoding that a backbone adds to its patch embeddings.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.

    Returns:
        Tensor | None: (1, extra tokens + N, C), the module's own tensor; None where there is none
        or it is zero.
    """
    backbone = unwrapped(backbone)
    encoding = getattr(getattr(backbone, 'timm_model', backbone), 'pos_embed', None)
    return encoding if isinstance(encoding, Tensor) and encoding.any() else None


def has_positions_in_layers(backbone: nn.Module) -> bool:
    """Whether a backbone may know positions by more than an encoding of its patch embeddings.

    Relative position biases, rotary encodings, the padding of convolutions and the weights of
    token mixers tell them. Only the plain ViTs that have none of these are known to lack them.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.
    """
    backbone = unwrapped(backbone)
    backbone = getattr(backbone, 'timm_model', backbone)
    if PLAIN.isdisjoint(parent.__name__ for parent in type(backbone).__mro__):
        return True
    parts = backbone.named_modules(), backbone.named_parameters(), backbone.named_buffers()
    return any(IN_LAYERS.search(name) for part in parts for name, _ in part) or any(
        isinstance(module, nn.Conv2d)
        and (module.kernel_size != module.stride or any(module.padding))
        for module in backbone.modules()
    )


def describe_encoding(backbone: nn.Module, how: str) -> str:
    """Say what becomes of the positional encoding, for a picture's heading.

    Args:
        backbone (nn.Module): The backbone.
        how (str): A key of :data:`ENCODINGS`. Of a backbone with positions in its layers it is
            'kept'.
    """
    if has_positions_in_layers(backbone):
        return LAYERS_KEPT
    return NO_ENCODING if find_encoding(backbone) is None else ENCODINGS[how]


@contextmanager
def encoding_as(
    backbone: nn.Module, how: str, order: Tensor, grid_shape: GridShape
) -> Iterator[None]:
    """A context in which the encoding of a backbone is left, removed or shuffled.

    The encodings of class tokens and the like stay as they are.

    Args:
        backbone (nn.Module): The backbone; afterwards it is as it was.
        how (str): A key of :data:`ENCODINGS`.
        order (Tensor): int64 (N, ), the patch that each slot shows.
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Raises:
        UserError: If the encoding is of another grid, or the layers know positions of their own.
    """
    if how == 'kept':
        yield
        return
    name = type(unwrapped(backbone)).__name__
    if has_positions_in_layers(backbone):
        raise UserError(
            f'{name} has positions in its layers, where they cannot be {how}: only '
            '--encoding kept is possible'
        )
    encoding = find_encoding(backbone)
    if encoding is None:
        yield
        return
    extra = encoding.shape[1] - len(order)
    if extra < 0 or extra > 2:  # a class token and a distillation token
        raise UserError(
            f'the positional encoding of {name} is of another grid than the {grid_shape[0]}x'
            f'{grid_shape[1]} patches of these images: feed images of the size it was built for'
        )
    kept = encoding.data
    changed = kept.clone()
    if how == 'removed':
        changed[:, extra:] = 0
    else:
        changed[:, extra:] = kept[:, extra:][:, order.to(kept.device)]
    encoding.data = changed
    try:
        yield
    finally:
        encoding.data = kept


# ------------------------------------------------------------------------------------ the picture


class JigsawRow(NamedTuple):
    """One solved jigsaw, a row of the picture.

    Attributes:
        label (str): The model, and its head where it has several.
        original, shuffled, restored (np.ndarray): uint8 (height, width, 3), RGB.
        order (np.ndarray): int (N, ), the patch that each slot shows.
        places (np.ndarray): int (N, ), where the patch of each slot was put.
        classes (tuple[str, str, str] | None): The class predicted for each of the three images,
            the shuffled one with the encoding as the heading says, the others as usual.
    """

    label: str
    original: np.ndarray
    shuffled: np.ndarray
    restored: np.ndarray
    order: np.ndarray
    places: np.ndarray
    classes: tuple[str, str, str] | None = None


def draw_jigsaw(
    name: str, encoding: str, rows: Sequence[JigsawRow], grid_shape: GridShape
) -> Figure:
    """Draw the original, the shuffled input and what the model makes of it.

    A patch that was put wrong has an orange frame in the restored image.

    Args:
        name (str): The image's.
        encoding (str): What became of the positional encoding, for the heading.
        rows (Sequence[JigsawRow]): One a model and head.
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        Figure: The picture.
    """
    H, W = grid_shape
    figure, axes = make_sheet(
        f'Jigsaw of {name}: {encoding}',
        [row.label for row in rows],
        bars=[False] * 3,
        below=any(row.classes for row in rows),
    )
    for row, (left, middle, right) in zip(rows, axes):
        classes = [f'class: {text}' for text in row.classes] if row.classes else [''] * 3
        wrong = np.flatnonzero(row.places != row.order)
        count = H * W - len(wrong)
        for panel, image, title, predicted in (
            (left, row.original, 'original', classes[0]),
            (middle, row.shuffled, 'shuffled input', classes[1]),
            (
                right,
                row.restored,
                f'put back: {count} of {H * W} right ({100 * count / (H * W):.0f} %)',
                classes[2],
            ),
        ):
            show_image(panel, image, grid_shape)
            set_title(panel, title)
            panel.set_xlabel(predicted, fontsize=9)
        frame_patches(right, row.places[wrong], W, inset=0.04)
    return figure
