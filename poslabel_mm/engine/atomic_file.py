"""Files that are either the old or the new one, never half of one."""
import os
import os.path as osp
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Union

from mmengine.fileio import LocalBackend, register_backend

from poslabel_mm.errors import UserError


def write_atomically(data: bytes, path: Union[str, Path]) -> None:
    """Write a file so that an interrupt leaves the old one or the new one.

    Args:
        data (bytes): The whole content.
        path (str | Path): Where to. Its folder is made if it is missing.

    Raises:
        UserError: If the disk is full or the folder cannot be written. A file
            that was at ``path`` before is untouched.
    """
    folder, name = osp.split(osp.abspath(path))
    # One name per target: what a killed run left is overwritten by the next.
    temporary = osp.join(folder, f'.{name}.tmp')
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        if osp.exists(temporary):
            os.remove(temporary)
        raise UserError(
            f'could not write {path} ({error.strerror or error}); earlier '
            'files are untouched. Free some space or choose another '
            '--work-dir, then resume') from error


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
        self._postponed: Optional[List[str]] = None

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        write_atomically(obj, filepath)

    def put_text(self,
                 obj: str,
                 filepath: Union[str, Path],
                 encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)

    def remove(self, filepath: Union[str, Path]) -> None:
        if self._postponed is None:
            super().remove(filepath)
        else:
            self._postponed.append(str(filepath))

    @contextmanager
    def removals_postponed(self) -> Iterator[List[str]]:
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
