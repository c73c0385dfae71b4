"""``poslabel convert``: bring a dataset into the layout that the configs read."""

import argparse
import difflib
import importlib
from collections.abc import Sequence
from functools import partial

from poslabel_mm.errors import UserError

#: Each dataset's module in :mod:`poslabel_mm.datasets.converters`, and what is done with it.
DATASETS = {
    'imagenet': ('imagenet', 'check that ImageNet-1K is whole, image by image if wanted'),
    'mini-imagenet': ('mini_imagenet', 'make Mini-ImageNet of ImageNet-1K, or of its images'),
    'caltech256': ('caltech256', 'split Caltech-256 into training and test images'),
    'folder': ('folder', 'split any folder of class folders: your own images'),
}


def main(argv: Sequence[str], prog: str = 'poslabel convert') -> int:
    """Run the converter of a dataset.

    Args:
        argv (Sequence[str]): The dataset and the converter's arguments.
        prog (str): What help calls this command.

    Returns:
        int: The exit status.

    Raises:
        UserError: If there is no such dataset.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        usage='%(prog)s DATASET [ARGUMENTS]',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Bring a dataset into the layout that the configs read.',
        epilog='\n'.join(
            [
                'datasets:',
                *(f'  {name:<15} {what}' for name, (_, what) in DATASETS.items()),
                '',
                f'`{prog} DATASET --help` lists the arguments of each, such as',
                f'  {prog} folder photographs --out data/mine',
            ]
        ),
    )
    name = argv[0] if argv else None
    if name not in DATASETS:
        if name in ('-h', '--help'):
            parser.print_help()
            return 0
        close = difflib.get_close_matches(name or '', DATASETS, n=1)
        hint = f'did you mean {close[0]}?' if close else f'choose from {", ".join(DATASETS)}'
        raise UserError(
            f'there is no converter of {name!r}: {hint}' if name else f'which dataset? {hint}'
        )
    module = f'poslabel_mm.datasets.converters.{DATASETS[name][0]}'
    # It comes with PIL and rich: only now.
    arguments = importlib.import_module('poslabel_mm.datasets.converters.arguments')
    convert = importlib.import_module(module).main
    arguments.run_tool(partial(convert, list(argv[1:]), prog=f'{prog} {name}'))
    return 0
