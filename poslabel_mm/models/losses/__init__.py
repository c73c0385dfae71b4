from .gaussian_target import GaussianTarget
from .pairwise_cross_entropy import pairwise_cross_entropy
from .pairwise_predictions import pairwise_predictions
from .pairwise_regression import PairMLP, pairwise_outputs, pairwise_regression
from .regression import REGRESSION_LOSSES

__all__ = [
    'REGRESSION_LOSSES',
    'GaussianTarget',
    'PairMLP',
    'pairwise_cross_entropy',
    'pairwise_outputs',
    'pairwise_predictions',
    'pairwise_regression',
]
