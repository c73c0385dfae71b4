"""Patch tokens: their labels, how they are read off a backbone, and predictions for them."""

from . import labels
from .predictions import OffsetPredictions, PlacePredictions, ViewPredictions
from .reader import PatchTokenReader, PatchTokens, check_gradient

__all__ = [
    'OffsetPredictions',
    'PatchTokenReader',
    'PatchTokens',
    'PlacePredictions',
    'ViewPredictions',
    'check_gradient',
    'labels',
]
