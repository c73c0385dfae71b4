"""Train and test what the arguments of ``reproduce`` select, and draw the results."""

import argparse
import importlib.util
import os.path as osp
import shlex
from dataclasses import replace

from poslabel_mm import UserError, config_path
from poslabel_mm.engine.files import write_atomically
from poslabel_mm.experiments import results
from poslabel_mm.experiments.checks import data_check, problems_of
from poslabel_mm.experiments.console import print_line
from poslabel_mm.experiments.figures import NO_MATPLOTLIB, check_figures, draw
from poslabel_mm.experiments.folder_check import difference_of
from poslabel_mm.experiments.launcher import TOOLS, Launcher
from poslabel_mm.experiments.listing import print_list
from poslabel_mm.experiments.manifest import load_paper
from poslabel_mm.experiments.recorded import read_csv
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.scale import Scale
from poslabel_mm.experiments.selection import Selection, select
from poslabel_mm.experiments.table_picture import table_png
from poslabel_mm.experiments.work import print_failures, run_all
from poslabel_mm.launch.cpu_threads import bound_cores


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


def print_results(selection: Selection, everything: Selection, seeds: list[int]) -> None:
    """Write the results, print the selected tables and draw the selected figures."""
    results.write_results(everything, seeds)
    if selection.rows:
        print_line('\n' + results.markdown(selection, selection.seeds(seeds)))
    if results.results_path(everything).is_file():
        print_line(f'tables: {results.results_path(everything)}')
    draw_tables(selection, everything, seeds)
    for figure in selection.figures:
        drawn = draw(everything, figure, seeds)  # whose rows name the curves
        if drawn is None:
            print_line(f'figure {figure.id}: nothing to draw yet')
        else:
            print_line(f'figure {figure.id}: {drawn[0]}, values in {drawn[1]}')


def draw_tables(selection: Selection, everything: Selection, seeds: list[int]) -> None:
    """Draw every selected table that has values for a picture, and print where."""
    if importlib.util.find_spec('matplotlib') is None:
        return
    seeds = selection.seeds(seeds)
    tables = {table.id: table for table, _ in everything.rows}.values()
    for table in {table.id: table for table, _ in selection.rows}.values():
        measured = {row.id: results.measure(selection, table, row, seeds) for row in table.rows}
        png = table_png(table, measured, results.title(selection).replace('`', ''), tables)
        if png is not None:
            path = selection.parent / f'table{table.id}.png'
            write_atomically(png, path)
            print_line(f'picture of table {table.id}: {path}')


def print_left_out(selection: Selection, seeds: list[int]) -> None:
    """Name the runs of other seeds that the results leave out, and why."""
    others = [seed for seed in selection.seeds(seeds) if seed not in seeds]
    for run in selection.runs(others):
        difference = difference_of(run)
        if difference:
            print_line(
                f'left out of the results: {run.name}, which was made with other settings, '
                f'{difference}'
            )


def print_commands(
    runs: dict[Run, list[str]], launcher: Launcher, problems: dict[Run, str]
) -> None:
    """Print the commands that would be run, as a shell takes them."""
    for run, uses in runs.items():
        if run in problems:
            print_line(
                f'# {run.name} ({", ".join(uses)}) cannot be done: '
                f'{" ".join(problems[run].split())}'
            )
            continue
        print_line(f'# {run.name} ({", ".join(uses)}): {run.state()}')
        if run.is_done:
            continue
        if run.config_text is not None:
            path = osp.relpath(run.config_path)
            print_line(
                f'mkdir -p {shlex.quote(osp.dirname(path))}\n'
                f"cat > {shlex.quote(path)} <<'END'\n{run.config_text}END"
            )
        if not run.is_trained:
            print_line(str(launcher.train(run)))
        for test in run.missing_tests():
            if test.id:
                print_line(f'mkdir -p {shlex.quote(osp.relpath(run.test_folder(test)))}')
            print_line(str(launcher.test(run, test)))


def run(args: argparse.Namespace) -> int:
    """Run the command :mod:`poslabel_mm.experiments.command` with its parsed arguments."""
    paper = load_paper(args.manifest)
    tables, figures = args.table, args.figure
    if args.all or args.list and not (tables or args.row or figures):
        tables, figures = [t.id for t in paper.tables], [f.id for f in paper.figures]
    scale, data = Scale(), args.data or paper.data
    if args.scale == 'tiny':
        scale, data = Scale(args.data or tiny_data(), args.epochs or 1), None
    rows, chosen = select(paper, tables, args.row, figures)
    everything = Selection(
        tuple((table, row) for table in paper.tables for row in table.rows),
        paper.figures,
        args.work_dir,
        scale,
        tuple(args.cfg_options),
        paper.title,
        data=data and osp.abspath(data),
        data_option='--data' if args.data else f'manifest {args.manifest}: its data',
        tests=paper.tests,
    )
    if args.recorded:
        everything = everything.with_recorded(read_csv(args.recorded), args.recorded)
    selection = replace(everything, rows=rows, figures=chosen)
    if args.list:
        print_list(selection, selection.seeds(args.seeds))
        return 0
    if data and not osp.isdir(data):
        raise UserError(f'{selection.data_option} {selection.data} is no folder')
    check_figures(selection)
    launcher = Launcher(TOOLS, args.gpus, args.partition or '', args.batch_per_gpu)
    runs = selection.runs(args.seeds)
    if not runs:
        raise UserError('there is nothing to run: what was asked for has no rows and no configs')
    runs = {run: uses for run, uses in runs.items() if not selection.is_recorded(run, uses)}
    if not runs:
        print_line(f'everything that was asked for is recorded in {args.recorded}')
        print_results(selection, everything, args.seeds)
        return 0
    if args.dry_run:
        problems = problems_of(list(runs))
        print_commands(runs, launcher, problems)
        print_failures(problems)
        return int(bool(problems))
    if chosen and importlib.util.find_spec('matplotlib') is None:
        raise UserError(NO_MATPLOTLIB)
    print_left_out(selection, args.seeds)
    return run_all(
        list(runs),
        launcher,
        args.jobs or (min(8, bound_cores()) if scale.data else 1),
        after_each=lambda: results.write_results(everything, args.seeds),
        at_the_end=lambda: print_results(selection, everything, args.seeds),
    )
