"""The runs of the quickstart, and what it prints of them."""

import argparse
import os
import os.path as osp
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from poslabel_mm.experiments import logs
from poslabel_mm.experiments.checks import check_data_of
from poslabel_mm.experiments.console import print_line, print_table
from poslabel_mm.experiments.folder_check import clear_folders
from poslabel_mm.experiments.launcher import TOOLS, Launcher
from poslabel_mm.experiments.manifest import load_paper
from poslabel_mm.experiments.quickstart_picture import (
    draw_picture,
    position_accuracies,
    without_output,
)
from poslabel_mm.experiments.results import (
    accuracy,
    gain,
    mean_and_deviation,
    measure,
    write_results,
)
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection, select
from poslabel_mm.experiments.work import run_all
from poslabel_mm.launch.cpu_threads import bound_cores
from poslabel_mm.stack.config_prefix import ROOT

PICTURED = 'apl'  # the row, at the first seed
KEEP_ALL = 'default_hooks.checkpoint.max_keep_ckpts=-1'
HEADER = ('trained with', 'top-1 %', 'gain by seed', 'positions %', 'seconds')


def run(args: argparse.Namespace) -> int:
    """Run the command :mod:`poslabel_mm.experiments.quickstart` with its parsed arguments."""
    # The models are too small for a GPU to pay, and one thread each makes the table the same
    # on any number of cores.
    os.environ.update(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
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
        print_accuracies(selection, args.seeds, positions)
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


def print_accuracies(
    selection: Selection, seeds: Sequence[int], positions: dict[Run, dict[str, float]]
) -> None:
    """Print means over the seeds, and the standard deviations between them.

    Args:
        selection (Selection): The rows.
        seeds (Sequence[int]): The seeds of the runs.
        positions (dict[Run, dict[str, float]]): Position accuracies in percent of each position
            head of a run.
    """
    measured = {row.id: measure(selection, row, seeds) for _, row in selection.rows}
    lines = []
    for _, row in selection.rows:
        runs = [selection.row_run(row, seed) for seed in seeds]
        of_positions = [mean(positions[run].values()) for run in runs if run in positions]
        seconds = mean(logs.training_seconds(run.folder) for run in runs)
        lines.append(
            (
                row.name,
                accuracy(measured[row.id]),
                gain(row, measured) or '-',
                mean_and_deviation(of_positions) or '-',
                f'{seconds:.0f}',
            )
        )
    title = f'test images, {len(seeds)} seed(s): mean ± standard deviation'
    print_table(title, HEADER, [lines], numbers=HEADER[1:])


def print_next_steps(pictured: Run, work_dir: Path, picture: Path) -> None:
    python = _shell_path(Path(sys.executable), resolve=False)
    config, tools = _shell_path(ROOT / pictured.config), _shell_path(TOOLS)
    print_line(
        '\n'.join(
            [
                f'logs and checkpoints   {_shell_path(work_dir)}',
                f'picture                {_shell_path(picture)}',
                '',
                'Next:',
                "  test a saved checkpoint with all of MMPretrain's options",
                f'    {python} {tools}/test.py {config} {_shell_path(pictured.checkpoint)}',
                '  train at a seed of your own',
                f'    {python} {tools}/train.py {config} --cfg-options randomness.seed=7',
                "  the paper's ViT-B/16 on ImageNet (in data/imagenet), 8 GPUs",
                f'    PYTHON={python} {tools}/dist_train.sh '
                f'{_shell_path(ROOT / "vit-b_apl_in1k.py")} 8',
            ]
        )
    )


def _shell_path(path: Path, resolve: bool = True) -> str:
    """A path as one would type it here; .venv/bin/python must stay a link."""
    path = path.resolve() if resolve else Path(osp.abspath(path))
    return shlex.quote(osp.relpath(path))
