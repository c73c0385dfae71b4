"""Where tests put temporary files: in memory, on machines that have the room."""

import os

FOLDER = '/dev/shm'
NOEXEC = getattr(os, 'ST_NOEXEC', 8)  # Linux's
ROOM = 256 << 20  # containers have 64 MB by default, and data loaders want some of it


def memory_folder() -> str | None:
    """A folder in memory for small files and for scripts, or None."""
    if not os.access(FOLDER, os.W_OK):
        return None
    found = os.statvfs(FOLDER)
    runs_scripts = not found.f_flag & NOEXEC
    return FOLDER if runs_scripts and found.f_bavail * found.f_frsize >= ROOM else None
