"""The runs of the quickstart, and what it prints of them."""

import argparse
import os
import os.path as osp
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import mean

from poslabel_mm.experiments import logs
from poslabel_mm.experiments.checks import check_data_of
from poslabel_mm.experiments.console import print_line
from poslabel_mm.experiments.folder_check import clear_folders
from poslabel_mm.experiments.launcher import TOOLS, Launcher
from poslabel_mm.experiments.manifest import load_paper
from poslabel_mm.experiments.quickstart_picture import (
    draw_picture,
    position_accuracies,
    without_output,
)
from poslabel_mm.experiments.results import markdown, mean_and_deviation, write_results
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection, select
from poslabel_mm.experiments.work import run_all
from poslabel_mm.launch.cpu_threads import bound_cores
from poslabel_mm.typed_command import poslabel_as_typed, python_as_typed

PICTURED = 'apl'  # the row, at the first seed
KEEP_ALL = 'default_hooks.checkpoint.max_keep_ckpts=-1'


def run(args: argparse.Namespace) -> int:
    """Run the command :mod:`poslabel_mm.experiments.quickstart` with its parsed arguments."""
    # The models are too small for a GPU to pay, and one thread each makes the table the same
    # on any number of cores.
    with environment(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1'):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    began = time.monotonic()
    paper = load_paper('digits')
    rows, _ = select(paper, ['1'], [], [])
    selection = Selection(
        rows,
        (),
        args.work_dir,
        options=schedule_options(args.epochs) if args.epochs else (),
        title=paper.title,
        folder=f'{args.epochs}epochs' if args.epochs else '',
    )
    pictured = selection.row_run(paper.table('1').row(PICTURED), args.seeds[0])
    runs = [
        replace(run, options=(*run.options, KEEP_ALL)) if run == pictured else run
        for run in selection.runs(args.seeds)
    ]
    if args.force:
        check_data_of(runs)  # before anything is lost
        clear_folders(runs)

    def print_results() -> None:
        if not all(run.is_done for run in runs):
            return
        picture = selection.parent / 'positions.png'
        print_line('testing the positions, drawing the picture')
        with without_output():
            positions = position_accuracies(list(selection.runs(args.seeds)))
            draw_picture(selection, pictured, args.seeds, picture)
        columns = extra_columns(selection, args.seeds, positions)
        print_line('\n' + markdown(selection, args.seeds, columns))
        print_line(f'in {time.monotonic() - began:.0f} s')
        print_next_steps(pictured, args.work_dir, picture)

    return run_all(
        runs,
        Launcher(TOOLS),
        args.jobs or bound_cores(),
        after_each=lambda: write_results(selection, args.seeds),
        at_the_end=print_results,
    )


def schedule_options(epochs: int) -> tuple[str, ...]:
    """Options that stretch warm-up and decay of a digits config over other epochs.

    The warm-up is a tenth of the epochs, as in the configs.

    Args:
        epochs (int): At least 2.
    """
    warmup = max(1, epochs // 10)
    return (
        f'train_cfg.max_epochs={epochs}',
        f'param_scheduler.0.end={warmup}',
        f'param_scheduler.1.begin={warmup}',
        f'param_scheduler.1.T_max={epochs - warmup}',
    )


def extra_columns(
    selection: Selection, seeds: Sequence[int], positions: dict[Run, dict[str, float]]
) -> dict[str, dict[str, str]]:
    """The columns that the quickstart adds to the table of results.

    Args:
        selection (Selection): The rows.
        seeds (Sequence[int]): The seeds of the runs.
        positions (dict[Run, dict[str, float]]): Position accuracies in percent of each position
            head of a run.

    Returns:
        dict[str, dict[str, str]]: For each column the text of every row's cell.
    """
    right, seconds = {}, {}
    for _, row in selection.rows:
        runs = [selection.row_run(row, seed) for seed in seeds]
        of_positions = [mean(positions[run].values()) for run in runs if run in positions]
        right[row.id] = mean_and_deviation(of_positions)
        seconds[row.id] = f'{mean(logs.training_seconds(run.folder) for run in runs):.0f}'
    return {'positions right, %': right, 'seconds': seconds}


def print_next_steps(pictured: Run, work_dir: Path, picture: Path) -> None:
    """Print where the results are, and commands to go on with."""
    checkpoint = _shell_path(pictured.checkpoint)
    print_line(
        '\n'.join(
            [
                f'logs and checkpoints   {_shell_path(work_dir)}',
                f'picture                {_shell_path(picture)}',
                '',
                'Next:',
                "  test a saved checkpoint with all of MMPretrain's options",
                f'    {_command("test")} {pictured.config} {checkpoint}',
                '  train at a seed of your own',
                f'    {_command("train")} {pictured.config} --cfg-options randomness.seed=7',
                "  the paper's ViT-B/16 on ImageNet (in data/imagenet), 8 GPUs",
                f'    {_command("reproduce")} --row 1/pe-apl --gpus 8',
            ]
        )
    )


def _command(name: str) -> str:
    """A subcommand as one would type it here; a script of the checkout without ``poslabel``."""
    poslabel = poslabel_as_typed()
    if poslabel is not None:
        return f'{shlex.quote(poslabel)} {name}'
    return f'{shlex.quote(python_as_typed())} {_shell_path(TOOLS / f"{name}.py")}'


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """A context in which variables of the environment have these values."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _shell_path(path: Path) -> str:
    """A path as one would type it here."""
    return shlex.quote(osp.relpath(path.resolve()))
