"""A file or folder that is there only once it is finished."""

import errno
import os
import os.path as osp
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from poslabel_mm.engine.unwritable import WRITING, check_writable, unwritable
from poslabel_mm.errors import UserError

# What file systems without hard links answer.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def check_output(path: str, endings: tuple[str, ...]) -> None:
    """Refuse an ``--out`` that cannot be written, or that would overwrite something.

    Args:
        path (str): The file, or the folder where no ending is given.
        endings (tuple[str, ...]): The endings that the format has; empty for a folder.

    Raises:
        UserError: With the reason.
    """
    path = osp.normpath(path)
    if endings and not path.endswith(endings):
        raise UserError(f'--out {path} must end in {" or ".join(endings)}')
    if osp.lexists(path):
        raise UserError(f'--out {path} exists: remove it, or name another')
    if not osp.isdir(osp.dirname(path) or '.'):
        raise UserError(f'the folder of --out {path} does not exist')
    check_writable(path)


@contextmanager
def unfinished(path: str) -> Iterator[str]:
    """A context that gives the path to write to, and moves it into place at its end.

    Args:
        path (str): The file or folder. If the context is left by an error, nothing is there.

    Raises:
        UserError: If it cannot be written.
    """
    path = osp.abspath(path)
    folder = None
    # Ctrl-C is to pass through here too; the command's own handler ends the process at once.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        folder = _made_beside(path)
        # Under its own name: programs hold the names of the files beside them.
        inside = osp.join(folder, osp.basename(path))
        try:
            yield inside
        except OSError as error:
            if error.errno not in WRITING:
                raise  # of something else, such as a file that is read
            raise unwritable(path, error) from error
        _move(inside, path)
    finally:
        signal.signal(signal.SIGINT, handler)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _made_beside(path: str) -> str:
    try:
        return tempfile.mkdtemp(prefix='.unfinished-', dir=osp.dirname(path))
    except OSError as error:
        raise unwritable(path, error) from error


def _move(inside: str, path: str) -> None:
    """Move a finished file or folder into place, unless something has been put there since."""
    try:
        if osp.isdir(inside):
            os.mkdir(path)  # an empty folder can be replaced
            os.replace(inside, path)
        else:
            _link(inside, path)
    except FileExistsError as error:
        raise UserError(
            f'--out {path} was made by another program in the meantime, and is kept: name another'
        ) from error
    except OSError as error:
        raise unwritable(path, error) from error


def _link(inside: str, path: str) -> None:
    try:
        os.link(inside, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(path, 'x'):
            os.replace(inside, path)
