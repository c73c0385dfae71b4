"""The argument parser of every command, which imports nothing heavy: help answers at once."""

import argparse
from typing import NoReturn

from .errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the lines of its description and raises :class:`UserError`.

    Args:
        prog (str, optional): The command's name, for help and errors. Defaults to the script's.
        description (str, optional): What help says of the command.
        **options: Further arguments of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **options) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}; {self.prog} --help lists the options')
