"""The command ``quickstart``: the first table of ``configs/digits.yml``, and a picture."""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.arguments import Parser
from poslabel_mm.errors import UserError
from poslabel_mm.experiments.arguments import add_seeds, whole_number

DESCRIPTION = """Train a small ViT on real digits, without and with positional labels.

Every run is a row of configs/digits.yml at a seed. The saved checkpoints are tested, and the
results put in a table and a picture. Finished runs are skipped and interrupted ones are
resumed: repeat the command."""
NEEDED = {'rich': 'rich', 'matplotlib': 'matplotlib', 'sklearn': 'scikit-learn'}


def main(argv: Sequence[str], prog: str = 'quickstart.py') -> int:
    """Run the command; see :data:`DESCRIPTION`.

    Returns:
        int: The exit status.

    Raises:
        UserError: For arguments and folders that cannot be used, before anything is made.
    """
    args = parse_args(argv, prog)
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f'{", ".join(missing)} missing: run bash tools/quickstart.sh, or install '
            'the extra poslabel_mm[tools]'
        )
    from poslabel_mm.experiments import quickstart_run

    return quickstart_run.run(args)


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the arguments of ``quickstart``; arguments and errors as :func:`main`."""
    parser = Parser(prog, DESCRIPTION)
    add_seeds(parser, [0, 1])
    parser.add_argument('--epochs', type=whole_number(2), help="default: the configs'")
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/quickstart'), help='default: %(default)s'
    )
    parser.add_argument(
        '--jobs',
        type=whole_number(1),
        help='runs at a time, of one thread each (default: the CPU cores)',
    )
    parser.add_argument('--force', action='store_true', help='repeat finished runs')
    args = parser.parse_args(argv)
    args.seeds = list(dict.fromkeys(args.seeds))
    return args
