"""Files that are either the old or the new one, never half of one."""

import os
import os.path as osp
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend

from poslabel_mm.engine.folder_lock import try_lock
from poslabel_mm.engine.unwritable import unwritable

TEMPORARY = re.compile(r'\..+\.[0-9a-f]{8}\.tmp')


def write_atomically(data: bytes, path: str | Path) -> None:
    """Write a file so that an interrupt leaves the old one or the new one.

    Several processes may write one path at a time: the last one's file is
    there in the end, and at any moment it is the whole file of one of them.

    Args:
        data (bytes): The whole content.
        path (str | Path): Where to. Its folder is made if it is missing.

    Raises:
        UserError: If the disk is full or the folder cannot be written. A file
            that was at ``path`` before is untouched.
    """
    folder, name = osp.split(osp.abspath(path))
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        _sweep(folder, name)
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
    """Make a temporary file of one's own, locked while it is written."""
    while True:
        temporary = osp.join(folder, f'.{name}.{secrets.token_hex(4)}.tmp')
        file = open(temporary, 'xb')
        # Another process may have swept it before it was locked.
        if try_lock(file) and osp.exists(temporary):
            return file
        file.close()


def _sweep(folder: str, name: str) -> None:
    """Remove what killed processes left behind: nobody holds their lock."""
    for left in os.listdir(folder):
        # The second is the name that earlier versions gave.
        if not TEMPORARY.fullmatch(left) and left != f'.{name}.tmp':
            continue
        left = osp.join(folder, left)
        try:
            with open(left, 'rb') as file:
                if try_lock(file):
                    os.remove(left)
        except OSError:
            pass  # it has just been moved to its place, or is not ours


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
    """MMEngine's local file backend with :func:`write_atomically`."""

    def __init__(self) -> None:
        self._postponed: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
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
            list[str]: What will be removed; the block may take paths out.
        """
        self._postponed = outdated = []
        try:
            yield outdated
            for path in outdated:
                super().remove(path)
        finally:
            self._postponed = None
