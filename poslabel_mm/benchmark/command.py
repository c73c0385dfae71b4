"""Time training steps and the relative loss, in turn in one run.

    %(prog)s step vit-b_in1k.py vit-b_apl_in1k.py vit-b_rpl_in1k.py
    %(prog)s pairs --grids 7 14 24 --batch-sizes 1 2 8
    %(prog)s table benchmarks/*.csv

Machines drift, so a single time says little: what is compared takes turns, and
what counts is the ratio of each pair. Every round goes to the CSV, with the
machine and the versions; `table` makes the tables of docs/performance.md from it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.arguments import Parser


def parse_args(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    shared = Parser(add_help=False)
    shared.add_argument('--device', help='default: cuda where there is a GPU, else cpu')
    shared.add_argument(
        '--dtype',
        default='float32',
        choices=['float32', 'bfloat16', 'float16'],
        help='autocast dtype; float32 is no autocast (default)',
    )
    shared.add_argument('--compile', action='store_true', help='torch.compile the model')
    shared.add_argument('--threads', type=int, help='CPU threads')
    shared.add_argument('--rounds', type=int, default=9, help='timed rounds (default 9)')
    shared.add_argument('--warmup', type=int, default=1, help='untimed rounds (default 1)')
    shared.add_argument('--out', type=Path, help='CSV to append every round to')

    parser = Parser(prog, __doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    step = commands.add_parser('step', parents=[shared], help="configs' whole training steps")
    step.add_argument('baseline', help='config to compare with')
    step.add_argument('configs', nargs='+', help='configs to compare')
    step.add_argument('--batch-size', type=int, default=4, help='images a step (default 4)')
    step.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='changes to the compared configs, not to the baseline',
    )
    pairs = commands.add_parser('pairs', parents=[shared], help='forms of the relative loss')
    pairs.add_argument(
        '--grids',
        nargs='+',
        type=int,
        default=[7, 14, 24],
        help='patches along a side (default 7 14 24)',
    )
    pairs.add_argument(
        '--batch-sizes', nargs='+', type=int, default=[1, 2, 8], help='default 1 2 8'
    )
    pairs.add_argument(
        '--forms',
        nargs='+',
        metavar='FORM',
        help='default: all; ratios are to exact',
    )
    pairs.add_argument(
        '--max-gb',
        type=float,
        default=3.0,
        help='leave a form out where its logits or hidden layer alone are larger (default 3)',
    )
    memory = commands.add_parser(
        'memory', parents=[shared], help='peak MiB of one form, in this process'
    )
    memory.add_argument('form')
    memory.add_argument('grid', type=int)
    memory.add_argument('batch_size', type=int)
    table = commands.add_parser('table', help='Markdown of CSVs')
    table.add_argument('csv', nargs='+', type=Path)
    args, unknown = parser.parse_known_args(argv)
    parser = commands.choices[args.command]  # whose help has the options
    if unknown:
        parser.error(f'unrecognized arguments: {" ".join(unknown)}')
    if args.command != 'table':
        _complete(parser, args)
    return args


def _complete(parser: Parser, args: argparse.Namespace) -> None:
    """Check arguments, and set the defaults, that need the stack. Help answers without it."""
    import torch

    from poslabel_mm.benchmark.forms import FORMS

    for name in ('rounds', 'batch_size'):
        if getattr(args, name, 1) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: no GPU is visible here')
    if args.command == 'pairs':
        args.forms = args.forms or FORMS
        unknown = [form for form in args.forms if form not in FORMS]
        if unknown:
            parser.error(f'there is no form {unknown[0]}: choose from {", ".join(FORMS)}')


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run a benchmark, or print the tables of those that were run.

    Args:
        argv (Sequence[str], optional): The arguments. Defaults to the process's.
        prog (str, optional): What help calls it. Defaults to the script's name.

    Raises:
        UserError: For wrong arguments, or a config or a form that is not there.
    """
    args = parse_args(argv, prog)
    import torch
    from mmengine.logging import MMLogger
    from mmengine.registry import DefaultScope

    from poslabel_mm.benchmark.memory import print_memory
    from poslabel_mm.benchmark.pairs import time_pairs
    from poslabel_mm.benchmark.steps import time_steps
    from poslabel_mm.benchmark.table import markdown

    if args.command == 'table':
        print(markdown(args.csv))
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    if torch.device(args.device).index is not None:
        torch.cuda.set_device(args.device)  # whose events and memory are read
    MMLogger.get_instance('benchmark', log_level='WARNING')
    command = dict(step=time_steps, pairs=time_pairs, memory=print_memory)[args.command]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        command(args)
