"""Experiments as runs: manifests, the runs of their rows, and tables and figures of them."""
