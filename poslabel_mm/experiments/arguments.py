"""Arguments that several commands take, and how they are parsed.

Nothing here, nor in the modules of the commands themselves, imports the MM stack or torch before
the arguments are parsed: help answers at once.
"""

import argparse
from collections.abc import Callable


def whole_number(least: int) -> Callable[[str], int]:
    """Make the ``type`` of an argument that is a whole number.

    Args:
        least (int): The smallest number that is accepted.
    """

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f'expected a whole number from {least} on, got {text!r}'
            )
        return int(text)

    return parse


def add_seeds(parser: argparse._ActionsContainer, default: list[int], note: str = '') -> None:
    """Add ``--seeds``.

    Args:
        parser (argparse._ActionsContainer): A parser, or a group of arguments.
        default (list[int]): The seeds without the option.
        note (str): Follows the default in the help.
    """
    parser.add_argument(
        '--seeds',
        type=whole_number(0),
        nargs='+',
        default=default,
        metavar='SEED',
        help=f'default: {" ".join(map(str, default))}{note}',
    )


def add_gpus(parser: argparse._ActionsContainer, batch: str) -> None:
    """Add ``--gpus``.

    Args:
        parser (argparse._ActionsContainer): A parser, or a group of arguments.
        batch (str): What the help says of the batch.
    """
    parser.add_argument(
        '--gpus',
        type=whole_number(1),
        default=1,
        metavar='N',
        help=f'processes, one a GPU (or on the CPU where there is none); {batch}',
    )
