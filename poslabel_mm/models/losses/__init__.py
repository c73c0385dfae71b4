from .key_draw import KeyDraw, draw_keys
from .pairwise_cross_entropy import pairwise_cross_entropy
from .pairwise_predictions import pairwise_predictions

__all__ = ['KeyDraw', 'draw_keys', 'pairwise_cross_entropy', 'pairwise_predictions']
