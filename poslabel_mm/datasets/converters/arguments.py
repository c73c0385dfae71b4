"""The options that converters share.

Each converter is a function ``main(argv, prog)``: ``argv`` are its arguments, by default those of
the process, and ``prog`` is what its help calls it. The converter of a dataset of known size takes
that ``size`` as well. An error of the user's is a :class:`UserError`, raised before anything is
written.
"""

import argparse


def add_split_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the options of every :class:`~.conversion.Conversion`.

    Args:
        parser (argparse.ArgumentParser): The converter's.
        folder (str): The default output folder.
    """
    parser.add_argument('--out', default=folder, help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='of the split; default: %(default)s')
    parser.add_argument(
        '--copy', action='store_true', help='copy the images instead of linking to them'
    )
    parser.add_argument(
        '--skip-unreadable', action='store_true', help='leave out images that cannot be read'
    )
