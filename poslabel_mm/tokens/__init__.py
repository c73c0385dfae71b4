"""Patch tokens: their labels, and how they are read off a backbone."""

from . import labels
from .reader import PatchTokenReader, PatchTokens, check_gradient

__all__ = ['PatchTokenReader', 'PatchTokens', 'check_gradient', 'labels']
