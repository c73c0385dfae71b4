"""MMPretrain's tools, run in this process or in several, after checks of their arguments."""

from poslabel_mm.stack.compat import check_installed

# Before torch is imported, which may be missing too.
check_installed()
