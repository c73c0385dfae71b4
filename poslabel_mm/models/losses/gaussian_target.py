"""Soft labels of an absolute position."""

import torch
import torch.nn.functional as F
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.schedules import Schedule, schedule
from poslabel_mm.tokens.labels import GridShape

MAX_SIGMA = 1e4
# Narrower than that, a neighbour's probability is 0 in float64 too.
MIN_SIGMA = 0.02


class GaussianTarget:
    """The place of a patch as a Gaussian over the grid.

    The place (r, c) of a patch at (r_0, c_0) has the probability
    exp(−((r − r_0)² + (c − c_0)²) / 2σ²), divided by the sum over the H·W places: a softmax that
    is off by a patch is less wrong than one that is off by ten. DropPos (NeurIPS 2023) smooths its
    positions in this manner, and less and less during training.

    Args:
        sigma (float | dict): Width σ in patches, or a schedule of it, see
            :func:`poslabel_mm.models.schedules.schedule`. 0 is the hard label. Defaults to 1.

    Raises:
        OptionError: For a width that is no number from 0 to 10,000 and no schedule.
    """

    def __init__(self, sigma: float | dict = 1.0) -> None:
        self.sigma: Schedule = schedule('sigma', sigma, 0, MAX_SIGMA)

    def __call__(self, labels: Tensor, grid_shape: GridShape, dtype: torch.dtype) -> Tensor:
        """What the cross-entropy compares with, at the present width.

        Args:
            labels (Tensor): int64 of any shape, places in [0, N).
            grid_shape (tuple[int, int]): The patch grid (H, W), N = H·W.
            dtype (torch.dtype): Of the probabilities.

        Returns:
            Tensor: Probabilities with a last dimension of N added, or ``labels`` itself where the
            width is 0.
        """
        sigma = self.sigma()
        if sigma < MIN_SIGMA:
            return labels
        H, W = grid_shape
        row = labels.div(W, rounding_mode='floor')
        # The Gaussian is the product of one over the rows and one over the columns.
        rows, cols = (
            _gaussian(centre, length, sigma, dtype)
            for centre, length in ((row, H), (labels - row * W, W))
        )
        return (rows.unsqueeze(-1) * cols.unsqueeze(-2)).flatten(-2)


def _gaussian(centre: Tensor, length: int, sigma: float, dtype: torch.dtype) -> Tensor:
    """Probabilities (..., length) about centres (...)."""
    distance = torch.arange(length, device=centre.device) - centre.unsqueeze(-1)
    return F.softmax(-0.5 * (distance.to(dtype) / sigma).square(), dim=-1)


def target(key: str, value: dict | None) -> GaussianTarget | None:
    """The target that an option describes.

    Args:
        key (str): The option's name, for messages.
        value (dict, optional): A dict with a type; None is the hard label.

    Raises:
        OptionError: Naming what is of the wrong type, out of range, or unknown.
    """
    if value is None:
        return None
    kinds = {prefix + 'GaussianTarget': GaussianTarget for prefix in ('', 'poslabel_mm.')}
    return options.part(key, value, kinds)
