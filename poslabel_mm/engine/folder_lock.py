"""Locks that let one run at a time work in a folder."""

import json
import os
import os.path as osp
import socket
import time
import weakref
from pathlib import Path
from typing import IO

from poslabel_mm.engine.unwritable import unwritable
from poslabel_mm.errors import UserError
from poslabel_mm.file_lock import Attempt, try_lock

NAME = 'lock'
# Folders that the process that started this one has locked, as a JSON list.
INHERITED = 'POSLABEL_MM_LOCKED'
# is_locked() holds a lock for a moment, so a lock that is taken is tried again for these seconds.
PATIENCE = 0.5


def lock_folder(folder: str | Path) -> IO:
    """Lock a folder for this process and those that it starts.

    The lock is the operating system's, on a file ``lock`` in the folder: it
    ends with the last process that holds the file open, however that ends. The
    file stays. It holds the number and the host of the process that came last.

    Args:
        folder (str | Path): Made if it is missing.

    Returns:
        IO: The open file; closing it releases the folder.

    Raises:
        UserError: If another process works in it, or it cannot be written.
    """
    path = osp.join(folder, NAME)
    lock = None
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(path, 'a+')
        if _try_patiently(lock) is Attempt.TAKEN:
            lock.seek(0)
            owner = lock.read().strip() or 'another process'
            raise UserError(
                f'{owner} is at work in {folder}: wait for it, or choose another --work-dir'
            )
        lock.truncate(0)
        lock.write(f'process {os.getpid()} on {socket.gethostname()}')
        lock.flush()
    except OSError as error:
        _close(lock)
        raise unwritable(path, error) from error
    except UserError:
        lock.close()
        raise
    _held.add(lock)
    return lock


def _try_patiently(lock: IO) -> Attempt:
    until = time.monotonic() + PATIENCE
    while (attempt := try_lock(lock)) is Attempt.TAKEN and time.monotonic() < until:
        time.sleep(0.02)
    return attempt


def _close_in_child() -> None:
    """Release the locks in a loader's worker, which may outlive a killed parent by seconds."""
    for lock in list(_held):
        lock.close()


_held: weakref.WeakSet = weakref.WeakSet()
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_close_in_child)


def _close(lock: IO | None) -> None:
    try:
        if lock is not None:
            lock.close()
    except OSError:
        pass  # what could not be written cannot be flushed either


def is_locked(folder: str | Path) -> bool:
    """Whether a process works in a folder; nothing is changed."""
    try:
        with open(osp.join(folder, NAME)) as lock:
            return try_lock(lock, shared=True) is Attempt.TAKEN
    except OSError:
        return False


def is_inherited(folder: str | Path) -> bool:
    """Whether the process that started this one has locked a folder for it."""
    return osp.realpath(folder) in json.loads(os.environ.get(INHERITED, '[]'))


def hand_on(locks: list[IO]) -> dict[str, str]:
    """The environment of a process that works in folders locked by this one."""
    return {INHERITED: json.dumps([osp.realpath(osp.dirname(lock.name)) for lock in locks])}
