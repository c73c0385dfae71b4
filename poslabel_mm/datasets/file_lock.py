"""Locks between processes, for as far as file systems have them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def file_lock(path: str | Path, blocking: bool = True) -> Iterator[bool]:
    """Hold a lock, which ends with the process.

    Some network file systems have no locks, others only locks between the processes of one host.
    What is done under the lock must leave nothing damaged if another host does it too.

    Args:
        path (str | Path): The file that is locked. It is made if it is missing, and stays.
        blocking (bool): Wait while another process holds the lock. Defaults to True.

    Yields:
        bool: Whether the lock is held. If not, the file cannot be made or the file system has no
        locks.

    Raises:
        filelock.Timeout: If another process holds the lock and ``blocking`` is False.
    """
    lock = FileLock(path, blocking=blocking)
    try:
        lock.acquire()
    except Timeout:  # an OSError too
        raise
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
