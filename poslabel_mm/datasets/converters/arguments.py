"""The command line that all converters share.

Each converter is a function ``main(argv, prog)``: ``argv`` are its arguments, by default those of
the process, and ``prog`` is what its help calls it. The converter of a dataset of known size takes
that ``size`` as well. An error of the user's is a :class:`UserError`, raised before anything is
written.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from poslabel_mm.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line as well.

    Args:
        prog (str, optional): The command. Defaults to the script's name.
        description (str): The help, printed with its own line breaks.
    """

    def __init__(self, prog: str | None, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}; {self.prog} --help lists the options')

    def add_split_options(self, folder: str) -> None:
        """Add the options of every :class:`~.conversion.Conversion`.

        Args:
            folder (str): The default output folder.
        """
        self.add_argument('--out', default=folder, help='default: %(default)s')
        self.add_argument('--seed', type=int, default=0, help='of the split; default: %(default)s')
        self.add_argument(
            '--copy', action='store_true', help='copy the images instead of linking to them'
        )
        self.add_argument(
            '--skip-unreadable', action='store_true', help='leave out images that cannot be read'
        )


def run_tool(main: Callable[[], None]) -> None:
    """Run a command. A user's error is one line and exit status 1."""
    # The tools leave Ctrl-C to the system while they import; from here on
    # there are folders to clean up.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(sys.stdout, 'reconfigure'):
        # File names need not be text of the terminal's encoding.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        main()
    except UserError as error:
        sys.exit('error: ' + ' '.join(str(error).splitlines()))
    except KeyboardInterrupt:
        print('interrupted; nothing was changed', file=sys.stderr)
        sys.exit(130)
