"""File locks between processes; a file system may have none.

They are the operating system's, and end with their owner.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no locks that die with their owner
    fcntl = None


class Attempt(Enum):
    """The result of an attempt to lock a file."""

    LOCKED = 'locked'
    TAKEN = 'another process has locked it'
    NO_LOCKS = 'the file system or the operating system has no locks'


def try_lock(file: IO, shared: bool = False, blocking: bool = False) -> Attempt:
    """Lock an open file, unless another process has.

    Args:
        file (IO): Locked until it is closed. It must be open for writing, or for reading if the
            lock is shared: NFS refuses other locks, which reads as :attr:`Attempt.NO_LOCKS`.
        shared (bool): Take a shared lock, which several processes may hold. Defaults to False.
        blocking (bool): Wait while another process has locked it. Defaults to False.
    """
    if fcntl is None:
        return Attempt.NO_LOCKS
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if blocking else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return Attempt.TAKEN
    except OSError:
        return Attempt.NO_LOCKS
    return Attempt.LOCKED


@contextmanager
def file_lock(path: str | Path, blocking: bool = True) -> Iterator[Attempt]:
    """Hold a lock on a file, which its owner may remove.

    On some network file systems a lock holds between the processes of one host alone: what is done
    under it must leave nothing damaged if another host does it too.

    Args:
        path (str | Path): The file. It is made if it is missing.
        blocking (bool): Wait while another process has locked it. Defaults to True.

    Yields:
        Attempt: Whether it is locked; :attr:`Attempt.NO_LOCKS` too if the file cannot be made.
    """
    while True:
        try:
            file = open(path, 'a')
        except OSError:
            yield Attempt.NO_LOCKS
            return
        with file:
            attempt = try_lock(file, blocking=blocking)
            if attempt is not Attempt.LOCKED or _is_at(path, file):
                yield attempt
                return


def _is_at(path: str | Path, file: IO) -> bool:
    """Whether an open file is the one at a path, and not one that its owner has removed."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
