"""The command line that all converters share."""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from poslabel_mm.errors import UserError


class Parser(argparse.ArgumentParser):
    """Of a command's arguments; a mistake in them is one line as well."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}; {self.prog} --help lists the options')

    def add_split_options(self, folder: str) -> None:
        """Add what every conversion takes.

        Args:
            folder (str): Where the result goes by default.
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
    """Run a command; a mistake is one line and exit status 1."""
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
