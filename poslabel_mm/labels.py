"""The label geometry under its public name: see :mod:`poslabel_mm.tokens.labels`."""

from .tokens.labels import *  # noqa: F401,F403
