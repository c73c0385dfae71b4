"""Patch tokens: their labels, and how they are read off a backbone."""

from . import labels
from .reader import PatchTokenReader, PatchTokens

__all__ = ['PatchTokenReader', 'PatchTokens', 'labels']
