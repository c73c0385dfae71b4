"""``poslabel convert``: bring a dataset into the layout that the configs read."""

import difflib
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from poslabel_mm.arguments import Parser
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
    parser = Parser(
        prog,
        'Bring a dataset into the layout that the configs read.',
        usage='%(prog)s DATASET [ARGUMENTS]',
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
    module = importlib.import_module(f'poslabel_mm.datasets.converters.{DATASETS[name][0]}')
    return run_converter(partial(module.main, list(argv[1:]), prog=f'{prog} {name}'))


def run_converter(convert: Callable[[], None]) -> int:
    """Run a converter.

    Args:
        convert (callable): The converter with its arguments.

    Returns:
        int: The exit status: 130 if Ctrl-C stopped it, which removes what it began.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(sys.stdout, 'reconfigure'):
        # File names need not be text of the terminal's encoding.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        convert()
    except KeyboardInterrupt:
        print('interrupted; nothing was changed', file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, previous)
    return 0
