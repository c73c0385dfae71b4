from .gaussian_target import GaussianTarget
from .key_draw import KeyDraw, draw_keys
from .pairwise_cross_entropy import pairwise_cross_entropy
from .pairwise_predictions import pairwise_predictions
from .pairwise_regression import PairMLP, pairwise_outputs, pairwise_regression
from .regression import REGRESSION_LOSSES
from .token_draw import TokenDraw

__all__ = [
    'REGRESSION_LOSSES',
    'GaussianTarget',
    'KeyDraw',
    'PairMLP',
    'TokenDraw',
    'draw_keys',
    'pairwise_cross_entropy',
    'pairwise_outputs',
    'pairwise_predictions',
    'pairwise_regression',
]
