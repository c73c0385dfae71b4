"""MMPretrain's tools, run in this process or in several, after checks of what they are given."""

from poslabel_mm.stack.compat import check_installed

# What the stack lacks is said before torch, which may be missing too, is imported.
check_installed()
