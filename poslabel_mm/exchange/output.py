"""A file or folder that is there only once it is finished."""

import os
import os.path as osp
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from poslabel_mm.engine.unwritable import check_writable, unwritable
from poslabel_mm.errors import UserError


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
        folder = tempfile.mkdtemp(prefix='.unfinished-', dir=osp.dirname(path))
        # Under its own name: programs hold the names of the files beside them.
        inside = osp.join(folder, osp.basename(path))
        yield inside
        os.replace(inside, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        signal.signal(signal.SIGINT, handler)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
