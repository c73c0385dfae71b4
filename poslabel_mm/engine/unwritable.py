"""Why a file or folder could not be written, in one line."""

import errno
import os
import os.path as osp
import tempfile
from pathlib import Path

from poslabel_mm.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Errors that mean the same for any path, and errors that concern the path that they name.
WRITING = (*NO_SPACE, errno.EFBIG, errno.EROFS, errno.EIO)
NAMED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)


def unwritable(path: str | Path, error: OSError) -> UserError:
    """Name the path that could not be written, the cause, and the way out.

    Args:
        path (str | Path): The file or folder.
        error (OSError): The system's error.

    Returns:
        UserError: The error to raise.
    """
    path = str(path)
    blocking = _file_on_the_way(path)
    if blocking is not None:
        cause, way_out = f'{blocking} is a file', 'choose another folder'
    elif error.errno == errno.ENOENT and not osp.isdir(osp.dirname(path) or '.'):
        cause = 'its folder does not exist'
        way_out = 'choose another folder, and leave it in place until the run has ended'
    elif error.errno in NO_SPACE:
        cause, way_out = _reason(error), 'free some space or choose another folder'
    elif error.errno == errno.EFBIG:
        cause = f'{_reason(error)}, there is a limit on the size of files'
        way_out = 'raise it (ulimit -f unlimited)'
    else:
        cause, way_out = _reason(error), 'choose another folder, or make this one writable'
    return UserError(
        f'could not write {path} ({cause}): {way_out}. Files that were there before are unchanged'
    )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _file_on_the_way(path: str) -> str | None:
    """The nearest existing folder above a path, if it is no folder."""
    folder = osp.dirname(path)
    while folder and not osp.lexists(folder):
        folder = osp.dirname(folder)
    return None if osp.isdir(folder or '.') else folder


def write_error(error: BaseException | None, folder: str | Path | None) -> str | None:
    """One line for an error of the file system that ended a tool.

    Args:
        error (BaseException, optional): The error.
        folder (str | Path, optional): The folder that it was writing to.

    Returns:
        str | None: Path, cause and way out; None if it is another error.
    """
    if not isinstance(error, OSError):
        return None
    path = error.filename if isinstance(error.filename, str) else None
    if error.errno == errno.ENOENT and folder and not osp.isdir(folder):
        return (
            f'{folder} was removed while the run was writing to it: leave it in place until '
            'the run has ended'
        )
    if 'No usable temporary directory' in str(error):
        return f'{error.strerror}: free some space there, or set TMPDIR to another folder'
    if error.errno in WRITING:
        # The stack writes to the temporary folder when it reads a config.
        return str(unwritable(path or folder or tempfile.gettempdir(), error))
    if error.errno in NAMED and path:
        if folder and osp.abspath(path).startswith(osp.join(osp.abspath(folder), '')):
            return str(unwritable(path, error))
        return f'{path} cannot be used: {error.strerror}'
    return None


def check_writable(path: str | Path) -> None:
    """Refuse a file that could not be written later, without touching it.

    Args:
        path (str | Path): A file that may exist; its folder must.

    Raises:
        UserError: If it is a folder, or no file can be made in its folder.
    """
    path = str(path)
    if osp.isdir(path):
        raise UserError(f'{path} is a folder: name a file')
    folder, name = osp.split(osp.abspath(path))
    probe = osp.join(folder, f'.{name}.{os.getpid()}.probe')
    try:
        # One block: a full disk still takes an empty file.
        with open(probe, 'wb') as file:
            file.write(bytes(4096))
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if osp.exists(probe):
            os.remove(probe)


def make_folder(folder: str | Path) -> None:
    """Make a folder if it is missing, and check that files can be written into it.

    Args:
        folder (str | Path): With all folders above it.

    Raises:
        UserError: If it cannot be made or written.
    """
    inside = osp.join(folder, 'log')
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise unwritable(inside, error) from error
    check_writable(inside)
