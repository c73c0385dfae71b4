"""Train and test the rows of a manifest's tables, and draw its figures.

    %(prog)s --list
    %(prog)s --table 5 [--table 6] [--gpus 8] [--seeds 0 1 2]
    %(prog)s --row 4/vit-b-apl --row 4/vit-b
    %(prog)s --figure 8
    %(prog)s --all --dry-run
    %(prog)s --all --scale tiny
    %(prog)s --manifest my_study.yml --all --seeds 0 1 2 [--data data/mine]

Finished runs are skipped and interrupted ones are resumed: repeat the command.
--dry-run prints the shell commands and makes nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.arguments import Parser
from poslabel_mm.errors import UserError
from poslabel_mm.experiments.arguments import add_gpus, add_seeds, whole_number
from poslabel_mm.experiments.manifest import list_manifests, shipped_name
from poslabel_mm.experiments.scale import DATA

AMP = ('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.loss_scale=dynamic')


def main(argv: Sequence[str], prog: str = 'reproduce.py') -> int:
    """Run the command.

    Args:
        argv (Sequence[str]): Its arguments.
        prog (str): Its name, for help and errors.

    Returns:
        int: The exit status.

    Raises:
        UserError: For arguments and folders that cannot be used, before anything is made.
    """
    args = parse_args(argv, prog)
    from poslabel_mm.experiments import reproduce

    return reproduce.run(args)


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse and check the arguments of ``reproduce``.

    Args:
        argv (Sequence[str]): The arguments.
        prog (str): The command's name, for help and errors.

    Returns:
        argparse.Namespace: The arguments, with all defaults filled in.

    Raises:
        UserError: If an argument is wrong, or two do not go together.
    """
    parser = Parser(prog, __doc__)
    what = parser.add_argument_group('what')
    what.add_argument(
        '--list',
        action='store_true',
        help="rows, the paper's and the measured values, and what is done",
    )
    what.add_argument(
        '--table',
        action='append',
        default=[],
        metavar='ID',
        help='all rows of a table; may be given several times, as --row and --figure',
    )
    what.add_argument(
        '--row', action='append', default=[], metavar='TABLE/ROW', help='or ROW beside one --table'
    )
    what.add_argument(
        '--figure', action='append', default=[], metavar='ID', help='all runs of a figure'
    )
    what.add_argument('--all', action='store_true', help='all tables and figures')
    what.add_argument(
        '--manifest',
        default='paper',
        metavar='NAME|FILE',
        help='whose tables and figures: a shipped manifest '
        f'({", ".join(list_manifests())}; default: paper), or a YAML file of '
        'your own, its configs beside it or shipped ones',
    )
    how = parser.add_argument_group('how')
    add_seeds(how, [0], '; the tables average all that are there')
    how.add_argument(
        '--work-dir',
        type=Path,
        help='of one manifest (default: work_dirs/reproduce, or '
        'work_dirs/MANIFEST of another than the paper)',
    )
    how.add_argument(
        '--recorded',
        type=Path,
        metavar='FILE.csv',
        help='a results.csv of earlier runs, such as docs/imagenette.csv: its rows are not run '
        'again, but for figures, and its values are part of the results',
    )
    how.add_argument(
        '--data',
        metavar='DIR',
        help='the folder of train/<class>/<image> and test/ or val/ to use in place of the '
        f"configs' data; with --scale tiny: {' or '.join(DATA)} (default: fashion_mnist where "
        'its files are, else digits)',
    )
    how.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='for every config; runs with other options keep other folders',
    )
    how.add_argument('--amp', action='store_true', help='train in mixed precision')
    how.add_argument(
        '--dry-run', action='store_true', help='print the shell commands, and make nothing'
    )
    where = parser.add_argument_group('where')
    add_gpus(where, "the recipe's batch is shared out over them")
    where.add_argument(
        '--batch-per-gpu',
        type=whole_number(1),
        metavar='N',
        help="N images at a time on every GPU; gradients are accumulated up to the recipe's batch",
    )
    where.add_argument(
        '--launcher', choices=['pytorch', 'slurm'], default='pytorch', help='default: pytorch'
    )
    where.add_argument('--partition', help="Slurm's, with --launcher slurm")
    where.add_argument(
        '--jobs',
        type=whole_number(1),
        metavar='N',
        help='runs at a time, on the same devices (default: 1; with --scale '
        'tiny the CPU cores, at most 8)',
    )
    tiny = parser.add_argument_group('tiny')
    tiny.add_argument(
        '--scale',
        choices=['full', 'tiny'],
        default='full',
        help='tiny: small models of the same families, on a CPU in minutes',
    )
    tiny.add_argument('--epochs', type=whole_number(1), help='of --scale tiny (default: 1)')
    args = parser.parse_args(argv)
    _check_and_complete(args)
    return args


def _check_and_complete(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together, and set the defaults that depend on others."""
    if not (args.list or args.all or args.table or args.row or args.figure):
        raise UserError(
            'nothing was asked for: give --list, --table ID, --row TABLE/ROW, --figure ID or --all'
        )
    if args.all and (args.table or args.row or args.figure):
        raise UserError('--all is every table and figure: leave out --table, --row and --figure')
    if (args.launcher == 'slurm') != (args.partition is not None):
        raise UserError('--launcher slurm and --partition P go together')
    args.manifest = shipped_name(args.manifest) or args.manifest
    _check_scale(args)
    if args.recorded and (args.cfg_options or args.data or args.scale != 'full' or args.amp):
        raise UserError(
            '--recorded is for the configs as they are: leave out --cfg-options, --data, --amp '
            'and --scale, or leave out --recorded'
        )
    wrong = [
        text for text in args.cfg_options if not text.partition('=')[0].strip() or '=' not in text
    ]
    if wrong:
        raise UserError(f'--cfg-options takes KEY=VALUE pairs, got {" ".join(wrong)}')
    own = next((o for o in args.cfg_options if o.startswith('randomness.seed=')), None)
    if own:
        raise UserError(f'--cfg-options {own}: seeds are given by --seeds')
    if args.work_dir is None:
        name = 'reproduce' if args.manifest == 'paper' else Path(args.manifest).stem
        args.work_dir = Path('work_dirs', name)
    if set(',[]()\'"') & set(str(args.work_dir)):
        raise UserError(
            f'--work-dir {args.work_dir} must be without commas, brackets and '
            'quotes: MMEngine would take it for a list'
        )
    if args.work_dir.exists() and not args.work_dir.is_dir():
        raise UserError(f'--work-dir {args.work_dir} is a file')
    args.seeds = list(dict.fromkeys(args.seeds))
    if args.amp:
        args.cfg_options = [*args.cfg_options, *AMP]


def _check_scale(args: argparse.Namespace) -> None:
    if args.scale == 'full':
        if args.epochs:
            raise UserError('--epochs is for --scale tiny: a config has its own')
        if args.data in DATA and not Path(args.data).is_dir():
            raise UserError(f'--data {args.data} is for --scale tiny, and no folder')
    elif args.manifest != 'paper':
        raise UserError(
            f'--scale tiny is for the paper: the models of {args.manifest} are small as they are'
        )
    elif args.data not in (None, *DATA):
        raise UserError(
            f'--scale tiny trains on {" or ".join(DATA)}: leave out --data {args.data}, or '
            'leave out --scale tiny to train on that folder'
        )
