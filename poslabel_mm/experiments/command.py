"""Train and test the rows of a manifest's tables, and draw its figures.

    reproduce --list
    reproduce --table 5 [--table 6] [--gpus 8] [--seeds 0 1 2]
    reproduce --row 4/vit-b-apl --row 4/vit-b
    reproduce --figure 8
    reproduce --all --dry-run
    reproduce --all --scale tiny
    reproduce --manifest my_study.yml --all --seeds 0 1 2

Finished runs are skipped and interrupted ones are resumed: repeat the command.
--dry-run prints the shell commands and makes nothing.
"""

import argparse
import importlib.util
import os.path as osp
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

from poslabel_mm import UserError, config_path
from poslabel_mm.engine.files import write_atomically
from poslabel_mm.engine.unwritable import make_folder
from poslabel_mm.experiments import results
from poslabel_mm.experiments.figures import draw
from poslabel_mm.experiments.launcher import TOOLS, Launcher
from poslabel_mm.experiments.listing import print_list
from poslabel_mm.experiments.manifest import list_manifests, load_paper
from poslabel_mm.experiments.progress import Display
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection, select
from poslabel_mm.experiments.tiny import DATA, Scale
from poslabel_mm.experiments.work import Work, check_data_of, cpu_cores, data_check, problems_of
from poslabel_mm.launch.child_processes import ChildProcesses

AMP = ('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.loss_scale=dynamic')


def say(line: str) -> None:
    print(line, flush=True)


def tiny_data() -> str:
    """Fashion-MNIST where it is installed, else the digits."""
    from mmengine.config import Config

    try:
        data_check()(
            Config.fromfile(config_path('_base_/fashion_mnist.py')),
            ('train_dataloader', 'test_dataloader'),
        )
    except UserError:
        return 'digits'
    return 'fashion_mnist'


# ------------------------------------------------------------------ results


def write_results(everything: Selection, seeds: list[int]) -> None:
    """All tables of which something is measured, in one file."""
    there = everything.seeds(seeds)
    measured = results.measured_tables(everything, there)
    if measured.rows:
        path = results.results_path(everything)
        write_atomically(results.markdown(measured, there).encode(), path)
        write_atomically(results.csv_of_seeds(measured, there).encode(), path.with_suffix('.csv'))


def show_results(selection: Selection, everything: Selection, seeds: list[int]) -> None:
    there = selection.seeds(seeds)
    write_results(everything, seeds)
    if selection.rows:
        say('\n' + results.markdown(selection, there))
    if results.results_path(everything).is_file():
        say(f'tables: {results.results_path(everything)}')
    for figure in selection.figures:
        drawn = draw(everything, figure, seeds)  # whose rows name the curves
        if drawn is None:
            say(f'figure {figure.id}: nothing to draw yet')
        else:
            say(f'figure {figure.id}: {drawn[0]}, values in {drawn[1]}')


def say_failures(failures: dict[Run, str]) -> None:
    """A line for every reason."""
    by_reason: dict[str, list[str]] = {}
    for run, reason in failures.items():
        by_reason.setdefault(' '.join(reason.split()), []).append(run.name)
    for reason, names in by_reason.items():
        print(f'error: {"; ".join(names)}: {reason}', file=sys.stderr, flush=True)


def print_commands(
    runs: dict[Run, list[str]], launcher: Launcher, problems: dict[Run, str]
) -> None:
    """What would be run, to be pasted into a shell."""
    for run, uses in runs.items():
        if run in problems:
            say(
                f'# {run.name} ({", ".join(uses)}) cannot be done: '
                f'{" ".join(problems[run].split())}'
            )
            continue
        say(f'# {run.name} ({", ".join(uses)}): {run.state()}')
        if run.is_done:
            continue
        if run.config_text is not None:
            path = osp.relpath(run.config_path)
            say(
                f'mkdir -p {shlex.quote(osp.dirname(path))}\n'
                f"cat > {shlex.quote(path)} <<'END'\n{run.config_text}END"
            )
        if not run.is_trained:
            say(str(launcher.train(run)))
        if run.is_tested:
            say(str(launcher.test(run)))


# ---------------------------------------------------------------- arguments


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}; {self.prog} --help lists the options')


def whole_number(least: int):

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f'expected a whole number from {least} on, got {text!r}'
            )
        return int(text)

    return parse


def parse_args(argv: list[str], prog: str) -> argparse.Namespace:
    parser = Parser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group('what')
    what.add_argument(
        '--list',
        action='store_true',
        help="rows, the paper's and the measured values, and what is done",
    )
    what.add_argument(
        '--table',
        type=whole_number(1),
        action='append',
        default=[],
        metavar='N',
        help='all rows of a table; may be given several times, as --row and --figure',
    )
    what.add_argument(
        '--row', action='append', default=[], metavar='TABLE/ROW', help='or ROW beside one --table'
    )
    what.add_argument(
        '--figure',
        type=whole_number(1),
        action='append',
        default=[],
        metavar='N',
        help='all runs of a figure',
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
    how.add_argument(
        '--seeds',
        type=whole_number(0),
        nargs='+',
        default=[0],
        metavar='SEED',
        help='default: 0; the tables average all that are there',
    )
    how.add_argument(
        '--work-dir',
        type=Path,
        help='of one manifest (default: work_dirs/reproduce, or '
        'work_dirs/MANIFEST of another than the paper)',
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
    where.add_argument(
        '--gpus',
        type=whole_number(1),
        default=1,
        metavar='N',
        help='processes, one a GPU (or on the CPU where there is none); the '
        "recipe's batch is shared out over them",
    )
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
    tiny.add_argument(
        '--data',
        choices=DATA,
        help='of --scale tiny (default: fashion_mnist where its files are, else digits)',
    )
    tiny.add_argument('--epochs', type=whole_number(1), help='of --scale tiny (default: 1)')
    args = parser.parse_args(argv)
    check_args(args)
    return args


def check_args(args: argparse.Namespace) -> None:
    if not (args.list or args.all or args.table or args.row or args.figure):
        raise UserError(
            'nothing was asked for: give --list, --table N, --row TABLE/ROW, --figure N or --all'
        )
    if args.all and (args.table or args.row or args.figure):
        raise UserError('--all is every table and figure: leave out --table, --row and --figure')
    if (args.launcher == 'slurm') != (args.partition is not None):
        raise UserError('--launcher slurm and --partition P go together')
    if args.scale == 'tiny' and args.manifest != 'paper':
        raise UserError(
            f'--scale tiny is for the paper: the models of {args.manifest} are small as they are'
        )
    if args.scale == 'full' and (args.data or args.epochs):
        raise UserError("--data and --epochs are for --scale tiny; the paper's size has its own")
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
    args.jobs = args.jobs or (min(8, cpu_cores()) if args.scale == 'tiny' else 1)


def main(argv: list[str], prog: str = 'reproduce.py') -> int:
    """Run the command.

    Args:
        argv (list[str]): Its arguments.
        prog (str): Its name, for help and errors.

    Returns:
        int: The exit status.

    Raises:
        UserError: For arguments and folders that cannot be used, before anything is made.
    """
    args = parse_args(argv, prog)
    paper = load_paper(args.manifest)
    tables, figures = args.table, args.figure
    if args.all or args.list and not (tables or args.row or figures):
        tables, figures = [t.id for t in paper.tables], [f.id for f in paper.figures]
    scale = Scale()
    if args.scale == 'tiny':
        scale = Scale(args.data or tiny_data(), args.epochs or 1)
    rows, chosen = select(paper, tables, args.row, figures)
    selection = Selection(rows, chosen, args.work_dir, scale, tuple(args.cfg_options), paper.title)
    everything = Selection(
        tuple((t, row) for t in paper.tables for row in t.rows),
        paper.figures,
        args.work_dir,
        scale,
        tuple(args.cfg_options),
        paper.title,
    )
    if args.list:
        print_list(selection, selection.seeds(args.seeds))
        return 0

    launcher = Launcher(TOOLS, args.gpus, args.partition or '', args.batch_per_gpu)
    runs = selection.runs(args.seeds)
    problems = problems_of(list(runs))
    if args.dry_run:
        print_commands(runs, launcher, problems)
        say_failures(problems)
        return int(bool(problems))
    needed = [run for run in runs if run not in problems and not run.is_done]
    # A pre-training whose fine-tuning has ended is needed for a figure alone.
    check_data_of(needed)
    for run in needed:
        launcher.train(run)  # can the batch be shared out?
    if chosen and importlib.util.find_spec('matplotlib') is None:
        raise UserError(
            'the figures need matplotlib: install the extra poslabel_mm[tools], '
            'or matplotlib itself'
        )
    if problems and not needed:
        say_failures(problems)
        return 1
    make_folder(args.work_dir)
    if scale.data:
        say(f'tiny scale: small models on {scale.data}, {scale.epochs} epoch(s)')
    say(f'{len(needed)} of {len(runs)} runs to be done, in {osp.relpath(selection.parent)}')
    say_failures(problems)

    # srun answers SIGTERM by killing its tasks; SIGINT the launcher has it forward.
    children = ChildProcesses(
        signal.SIGINT if args.partition else None, 'stopping after the iteration under way ...'
    )
    work = Work(launcher, children, Display(needed), args.jobs)
    failures = work.do_all(needed, lambda: write_results(everything, args.seeds))
    if children.told is not None:
        return work.say_stopped()
    show_results(selection, everything, args.seeds)
    say_failures(problems | failures)
    return int(bool(problems or failures))
