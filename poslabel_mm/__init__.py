"""Positional labels for vision transformers: a plugin for MMPretrain."""
from poslabel_mm.stack.compat import apply as _apply_compat

# Before any other import: these need a stack that works.
_apply_compat()

from poslabel_mm.stack import config_prefix  # noqa: E402
from poslabel_mm.stack import model_hub
from poslabel_mm.stack.config_prefix import config_path  # noqa: E402
from poslabel_mm.errors import UserError  # noqa: E402
from poslabel_mm.version import __version__  # noqa: E402

config_prefix.install()
model_hub.install()

__all__ = ['UserError', '__version__', 'config_path']
