"""Linear read-outs of the patches' coordinates from their tokens.

Shape letters: B images, n tokens of an image, C channels, (H, W) patch grid, N = H·W.
"""

import torch
from torch import Tensor

from poslabel_mm.evaluation.linear_readout import LinearReadout
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import absolute_labels
from poslabel_mm.tokens.predictions import rows_and_columns

# What a random order is for. If patches were shuffled as coordinates are permuted, the permuted
# ones would be those that the content comes from.
CONTROL, SHUFFLE = 0, 1


def permutations(purpose: int, image_numbers: Tensor, length: int) -> Tensor:
    """A random order for each image, the same one whenever it is asked for.

    Args:
        purpose (int): ``CONTROL`` or ``SHUFFLE``: orders of the two are independent.
        image_numbers (Tensor): int64 (B,).
        length (int): How many there are to put in order.

    Returns:
        Tensor: int64 (B, length), on the CPU.
    """
    orders = []
    for number in image_numbers.tolist():
        generator = torch.Generator().manual_seed(2 * number + purpose)
        orders.append(torch.randperm(length, generator=generator))
    return torch.stack(orders) if orders else torch.empty(0, length, dtype=torch.int64)


class PositionReadout:
    """Ridge regression from patch tokens to their row and column, and to permuted ones.

    The permuted coordinates are the control: each image's, in a random order. Tokens say nothing
    of them, so that their R² is what chance alone gives.

    Args:
        ridge (float): As of :class:`LinearReadout`. Defaults to 1e-6: there are more tokens than
            channels, so it is only there for channels that depend on one another.
    """

    def __init__(self, ridge: float = 1e-6) -> None:
        self._readout = LinearReadout(ridge)

    def add(self, patch_tokens: PatchTokens, image_numbers: Tensor) -> None:
        """Add images.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and their indices if not all
                are present.
            image_numbers (Tensor): int64 (B,), on the CPU. Each image's random order follows from
                its number.
        """
        tokens, grid_shape, indices, *_ = patch_tokens
        places = absolute_labels(grid_shape, indices, tokens.device).expand(tokens.shape[:2])
        order = permutations(CONTROL, image_numbers, tokens.shape[1]).to(tokens.device)
        coordinates = torch.cat(
            [
                rows_and_columns(places, grid_shape),
                rows_and_columns(places.gather(1, order), grid_shape),
            ],
            dim=-1,
        )
        self._readout.add(tokens.flatten(0, 1), coordinates.flatten(0, 1))

    def gather(self) -> None:
        """Add up the images of all processes. Every process must have called :meth:`add`."""
        self._readout.gather()

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._readout)

    def r2(self, held_out: 'PositionReadout') -> tuple[float, float]:
        """How well the regression predicts the coordinates in other images.

        Args:
            held_out (PositionReadout): Their tokens.

        Returns:
            tuple[float, float]: R², the mean over row and column (of a grid of one row, the
            column's), and that of the permuted coordinates.
        """
        r2 = self._readout.r2(held_out._readout)
        return r2[:2].nanmean().item(), r2[2:].nanmean().item()
