"""MAE's sine-cosine encoding, whose halves of channels tell rows and columns the other way round.

MAE's own code lets the first half of the channels tell the column of a patch and the second its
row; MMPretrain's encoding begins with the row. The weights of an encoder know the order that they
were trained with, so the encoding goes with them.
"""

import math

import torch
from torch import Tensor

from poslabel_mm.models.backbones.positional_encoding import fill_sincos

# What rounding does to a sine that was computed in another way or stored in half precision.
TOLERANCE = 1e-2


def mae_sincos(encoding: Tensor, extra: int) -> Tensor:
    """MAE's own encoding in the shape of another.

    Args:
        encoding (Tensor): Of shape (1, extra + N, C), N a square.
        extra (int): The tokens in front of the patches; they have no place.
    """
    return exchanged(mmpretrain_sincos(encoding, extra))


def mmpretrain_sincos(encoding: Tensor, extra: int) -> Tensor:
    """MMPretrain's encoding in the shape of another; see :func:`mae_sincos`."""
    side = math.isqrt(encoding.shape[1] - extra)
    filled = torch.zeros_like(encoding, dtype=torch.float32)
    fill_sincos(filled, (side, side))
    return filled


def exchanged(encoding: Tensor) -> Tensor:
    """An encoding whose halves of channels are exchanged."""
    return encoding.roll(encoding.shape[2] // 2, 2)


def sincos_order(encoding: Tensor) -> str | None:
    """Whose sine-cosine encoding a tensor is.

    Args:
        encoding (Tensor): Of shape (1, extra + N, C).

    Returns:
        str | None: 'MAE', 'MMPretrain', or None where it is another encoding, or not of a square.
    """
    N, C = encoding.shape[1:]
    extra = next((extra for extra in (1, 0) if math.isqrt(N - extra) ** 2 == N - extra), None)
    if extra is None or C % 4 or N - extra < 2:
        return None
    patches = encoding[:, extra:].float()
    for owner, make in (('MAE', mae_sincos), ('MMPretrain', mmpretrain_sincos)):
        if (make(patches, 0) - patches).abs().max() < TOLERANCE:
            return owner
    return None
