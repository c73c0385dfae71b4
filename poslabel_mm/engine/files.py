"""Files that are either the old or the new one, never half of one."""

import os
import os.path as osp
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend

from poslabel_mm.engine.unwritable import unwritable
from poslabel_mm.file_lock import Attempt, try_lock

TEMPORARY = re.compile(r'\..+\.[0-9a-f]{8}\.tmp')
# Where files cannot be locked, a temporary file of this age is abandoned: a day, in seconds.
ABANDONED = 86_400
# A tool may write tens of thousands of them. A lost picture costs less than waiting for the disk.
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp')
# Folders in which this process has removed the temporary files of killed ones. Listing a large
# folder at each write would take longer than the write.
_swept: set[str] = set()


def write_atomically(data: bytes, path: str | Path) -> None:
    """Write a file so that an interrupt leaves the old one or the new one.

    Several processes may write one path at a time: the last one's file is
    there in the end, and at any moment the file is complete.

    Args:
        data (bytes): The whole content.
        path (str | Path): The file. Its folder is made if it is missing.

    Raises:
        UserError: If the disk is full or the folder cannot be written. A file
            that was at ``path`` before is untouched.
    """
    folder, name = osp.split(osp.abspath(path))
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        if folder not in _swept:
            _swept.add(folder)
            for left in filter(TEMPORARY.fullmatch, os.listdir(folder)):
                _remove_abandoned(osp.join(folder, left))
        _remove_abandoned(osp.join(folder, f'.{name}.tmp'))  # as earlier versions named it
        with _open_locked(folder, name) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        if temporary is not None and osp.exists(temporary):
            os.remove(temporary)
        raise unwritable(path, error) from error


def _open_locked(folder: str, name: str) -> BinaryIO:
    """Make a temporary file with a name of its own, locked while it is written."""
    while True:
        temporary = osp.join(folder, f'.{name}.{secrets.token_hex(4)}.tmp')
        file = open(temporary, 'xb')
        # Another process may have swept it before it was locked.
        if try_lock(file) is not Attempt.TAKEN and osp.exists(temporary):
            return file
        file.close()


def _remove_abandoned(path: str) -> None:
    """Remove a temporary file unless a process is writing it: nobody else holds its lock."""
    try:
        # NFS takes such a lock only of a file that is open for writing.
        with open(path, 'r+b') as file:
            attempt = try_lock(file)
            if attempt is Attempt.LOCKED:
                os.remove(path)
        if attempt is Attempt.NO_LOCKS and time.time() - osp.getmtime(path) > ABANDONED:
            os.remove(path)
    except OSError:
        pass  # it is not there, has just been moved to its place, or is not ours


def _sync_folder(folder: str) -> None:
    """Make a rename survive a power cut, where folders can be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


@register_backend('poslabel_mm_atomic', force=True)
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local file backend with :func:`write_atomically` for all but pictures."""

    def __init__(self) -> None:
        self._postponed: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        if str(filepath).lower().endswith(PICTURES):
            super().put(obj, filepath)
        else:
            write_atomically(obj, filepath)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)

    def remove(self, filepath: str | Path) -> None:
        if self._postponed is None:
            super().remove(filepath)
        else:
            self._postponed.append(str(filepath))

    @contextmanager
    def removals_postponed(self) -> Iterator[list[str]]:
        """Remove files at the end of the block, and only if it succeeds.

        Yields:
            list[str]: The paths that will be removed; the block may delete some from the list.
        """
        self._postponed = outdated = []
        try:
            yield outdated
            for path in outdated:
                super().remove(path)
        finally:
            self._postponed = None
