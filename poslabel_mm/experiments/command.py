"""The command ``reproduce``: train and test what its arguments select, and draw the results."""

import importlib.util
import os.path as osp
import shlex
import signal
import sys

from poslabel_mm import UserError, config_path
from poslabel_mm.engine.files import write_atomically
from poslabel_mm.engine.unwritable import make_folder
from poslabel_mm.experiments import results
from poslabel_mm.experiments.arguments import parse_args
from poslabel_mm.experiments.figures import draw
from poslabel_mm.experiments.launcher import TOOLS, Launcher
from poslabel_mm.experiments.listing import print_list
from poslabel_mm.experiments.manifest import load_paper
from poslabel_mm.experiments.progress import Display
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection, select
from poslabel_mm.experiments.tiny import Scale
from poslabel_mm.experiments.work import Work, check_data_of, data_check, problems_of
from poslabel_mm.launch.child_processes import ChildProcesses


def say(line: str) -> None:
    """Print a line at once, into a pipe too."""
    print(line, flush=True)


def tiny_data() -> str:
    """The dataset of the tiny scale: Fashion-MNIST if its files are there, else the digits."""
    from mmengine.config import Config

    try:
        data_check()(
            Config.fromfile(config_path('_base_/fashion_mnist.py')),
            ('train_dataloader', 'test_dataloader'),
        )
    except UserError:
        return 'digits'
    return 'fashion_mnist'


def write_results(everything: Selection, seeds: list[int]) -> None:
    """Write all tables that have a measured value into one file, and its seeds into a CSV file."""
    present = everything.seeds(seeds)
    measured = results.measured_tables(everything, present)
    if measured.rows:
        path = results.results_path(everything)
        write_atomically(results.markdown(measured, present).encode(), path)
        write_atomically(
            results.csv_of_seeds(measured, present).encode(), path.with_suffix('.csv')
        )


def show_results(selection: Selection, everything: Selection, seeds: list[int]) -> None:
    """Write the results, print the selected tables and draw the selected figures."""
    present = selection.seeds(seeds)
    write_results(everything, seeds)
    if selection.rows:
        say('\n' + results.markdown(selection, present))
    if results.results_path(everything).is_file():
        say(f'tables: {results.results_path(everything)}')
    for figure in selection.figures:
        drawn = draw(everything, figure, seeds)  # whose rows name the curves
        if drawn is None:
            say(f'figure {figure.id}: nothing to draw yet')
        else:
            say(f'figure {figure.id}: {drawn[0]}, values in {drawn[1]}')


def say_failures(failures: dict[Run, str]) -> None:
    """Print one error for every reason, with the runs that it stopped."""
    by_reason: dict[str, list[str]] = {}
    for run, reason in failures.items():
        by_reason.setdefault(' '.join(reason.split()), []).append(run.name)
    for reason, names in by_reason.items():
        print(f'error: {"; ".join(names)}: {reason}', file=sys.stderr, flush=True)


def print_commands(
    runs: dict[Run, list[str]], launcher: Launcher, problems: dict[Run, str]
) -> None:
    """Print the commands that would be run, as a shell takes them."""
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
