"""What the MM stack needs before poslabel_mm can run on it."""
