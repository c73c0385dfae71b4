"""Ridge regression from features to targets, in the memory of its normal equations.

Shape letters: m rows, C features, T targets.
"""

import torch
from mmengine.dist import all_reduce
from torch import Tensor

# A feature whose variance is this part of its mean square is a constant, but for rounding.
CONSTANT = 1e-12


class LinearReadout:
    """Least squares of targets on features, with an intercept, in float64.

    Rows are added batch by batch, and only the sums of their products are kept. Features are
    scaled to unit variance, so that ``ridge`` means the same for all of them: the solution is that
    of scikit-learn's ``StandardScaler`` and ``Ridge(alpha=ridge * m)``.

    Args:
        ridge (float): What is added to the diagonal of the features' correlation matrix.
    """

    def __init__(self, ridge: float) -> None:
        self.ridge = ridge
        # Of rows [1, features, targets]: the sums of the products of all pairs of columns.
        self._sums: Tensor | None = None
        self._num_features = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add rows.

        Args:
            features (Tensor): Of shape (m, C).
            targets (Tensor): Of shape (m, T).
        """
        if features.device.type not in ('cpu', 'cuda'):  # some devices have no float64
            features = features.cpu()
        features = features.double()
        targets = targets.to(features)
        rows = torch.cat([features.new_ones(len(features), 1), features, targets], dim=1)
        sums = rows.T @ rows
        self._num_features = features.shape[1]
        self._sums = sums if self._sums is None else self._sums + sums

    def gather(self) -> None:
        """Add up the rows of all processes. Every process must have called :meth:`add`."""
        all_reduce(self._sums)

    def __len__(self) -> int:
        return 0 if self._sums is None else int(self._sums[0, 0])

    def solve(self) -> tuple[Tensor, Tensor]:
        """The regression.

        Returns:
            tuple[Tensor, Tensor]: Weights (C, T) and intercepts (T,), float64.
        """
        x, y = self._columns()
        mean, covariance = self._moments()
        variance = covariance.diagonal()[x]
        mean_square = self._sums.diagonal()[x] / self._sums[0, 0]
        scale = torch.where(variance > CONSTANT * mean_square, variance, torch.inf).rsqrt()
        correlation = scale[:, None] * covariance[x, x] * scale
        correlation.diagonal().add_(self.ridge)
        weights = torch.linalg.solve(correlation, scale[:, None] * covariance[x, y])
        weights = scale[:, None] * weights
        return weights, mean[y] - mean[x] @ weights

    def r2(self, held_out: 'LinearReadout') -> Tensor:
        """The coefficient of determination of this regression on other rows.

        Args:
            held_out (LinearReadout): Rows of the same features and targets.

        Returns:
            Tensor: float64 (T,), at most 1; 0 is that of the held-out rows' mean. NaN for a target
            that is constant there.
        """
        weights, intercepts = self.solve()
        # Errors are linear in the rows, so that their squares are in the sums.
        own = torch.eye(len(intercepts), dtype=weights.dtype, device=weights.device)
        error = torch.cat([-intercepts[None], -weights, own])
        squared_error = (error * (held_out._sums @ error)).sum(0)
        _, y = self._columns()
        _, covariance = held_out._moments()
        variance = covariance.diagonal()[y]
        mean_square = held_out._sums.diagonal()[y] / held_out._sums[0, 0]
        variance = torch.where(variance > CONSTANT * mean_square, variance, torch.nan)
        return 1 - squared_error / (held_out._sums[0, 0] * variance)

    def _columns(self) -> tuple[slice, slice]:
        first_target = 1 + self._num_features
        return slice(1, first_target), slice(first_target, None)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the columns."""
        mean = self._sums[0] / self._sums[0, 0]
        return mean, self._sums / self._sums[0, 0] - torch.outer(mean, mean)
