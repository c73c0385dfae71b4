"""Patch tokens: their labels, how they are read off a backbone, and predictions for them."""

from . import labels
from .predictions import OffsetPredictions, PlacePredictions, SwapPredictions, ViewPredictions
from .reader import PatchTokenReader, PatchTokens, SwappedTokens, check_gradient

__all__ = [
    'OffsetPredictions',
    'PatchTokenReader',
    'PatchTokens',
    'PlacePredictions',
    'SwapPredictions',
    'SwappedTokens',
    'ViewPredictions',
    'check_gradient',
    'labels',
]
