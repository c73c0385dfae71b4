"""Positional labels for vision transformers: a plugin for MMPretrain."""
from .compat import apply as _apply_compat

# Before any other import: these need a stack that works.
_apply_compat()

from . import config_prefix, model_hub  # noqa: E402
from .config_prefix import config_path  # noqa: E402
from .errors import UserError  # noqa: E402
from .version import __version__  # noqa: E402

config_prefix.install()
model_hub.install()

__all__ = ['UserError', '__version__', 'config_path']
