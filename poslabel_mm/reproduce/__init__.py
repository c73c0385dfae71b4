"""The paper's experiments as runs, and tables and figures from their folders."""
