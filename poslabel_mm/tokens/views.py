"""Several views of an image: where they lie in it, and to one another.

Shape letters: B images, V views of each. A view is a rectangle of the image that was scaled to
the size that the backbone gets. Its box is its centre's row and column and its height and width,
in pixels of the image; a view that was mirrored upside down has a negative height, one that was
mirrored left to right a negative width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from poslabel_mm.tokens.reader import PatchTokens


class Views(NamedTuple):
    """The tokens of all views of a batch, and where the views lie.

    Attributes:
        tokens (list[PatchTokens]): Of each view, of the images in order.
        boxes (Tensor): float32 (B, V, 4), the boxes.
    """

    tokens: list[PatchTokens]
    boxes: Tensor


def view_offsets(boxes: Tensor) -> Tensor:
    """Position and size of every view as every other view sees it.

    Args:
        boxes (Tensor): Shape (B, V, 4).

    Returns:
        Tensor: Shape (B, V, V, 4). Entry [b, i, j] is view i as seen from view j: how far down
        and to the right its centre lies from that of j, in heights and widths of j and in the
        directions in which j shows the image, and the logarithms of its height and width over
        those of j. Whether i is mirrored does not count.
    """
    centre, size = boxes.split(2, dim=-1)
    # A negative size turns the direction around.
    shift = (centre.unsqueeze(2) - centre.unsqueeze(1)) / size.unsqueeze(1)
    log_size = size.abs().log()
    return torch.cat([shift, log_size.unsqueeze(2) - log_size.unsqueeze(1)], dim=-1)
