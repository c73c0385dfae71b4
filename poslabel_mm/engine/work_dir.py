"""The folder that a tool writes its logs and checkpoints into."""

import logging
import sys
from typing import IO

from poslabel_mm.engine.folder_lock import is_inherited, lock_folder
from poslabel_mm.engine.unwritable import make_folder, unwritable, write_error


class WorkDir:
    """The work dir of a running tool.

    While it is in use, a log in it that cannot be written ends the run:
    logging would print a traceback for every line and continue.
    """

    def __init__(self) -> None:
        self._folder: str | None = None
        self._lock: IO | None = None
        self._handle_error = logging.FileHandler.handleError

    def claim(self, folder: str) -> None:
        """Lock a folder for this process.

        Args:
            folder (str): Made if it is missing.

        Raises:
            UserError: If another process works in it, or it cannot be written.
        """
        if not is_inherited(folder):
            self._lock = lock_folder(folder)
        make_folder(folder)
        self.use(folder)

    def use(self, folder: str) -> None:
        """Write into a folder that another process has made and checked.

        Args:
            folder (str): The folder that messages about file errors name.
        """
        self._folder = folder
        logging.FileHandler.handleError = _raise_unwritable

    def leave(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            self._lock.close()
        self._folder = self._lock = None
        logging.FileHandler.handleError = self._handle_error

    def reason(self, error: BaseException) -> str | None:
        """One line for an error of the file system.

        Args:
            error (BaseException): The error that ended the tool.

        Returns:
            str | None: Path, cause and way out; None if it is another error.
        """
        return write_error(error, self._folder)


def _raise_unwritable(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise unwritable(handler.baseFilename, error) from error
    logging.Handler.handleError(handler, record)
