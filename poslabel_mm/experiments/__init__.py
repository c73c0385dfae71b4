"""Experiments as runs: manifests, the runs of their rows, and tables and figures of them."""

from poslabel_mm.stack.compat import check_installed

# What the stack lacks is said before torch, which may be missing too, is imported.
check_installed()
