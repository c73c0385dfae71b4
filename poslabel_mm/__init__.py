"""Positional labels for vision transformers: a plugin for MMPretrain.

Importing it is cheap. What the MM stack needs before it can be used is done when the stack is
imported, see :mod:`poslabel_mm.stack`.
"""

from . import stack
from .errors import UserError
from .stack.config_prefix import config_path
from .version import __version__

stack.install()

__all__ = ['UserError', '__version__', 'config_path']
