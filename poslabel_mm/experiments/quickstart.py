"""The first table of ``configs/digits.yml``, and a picture of what its models learned."""

import argparse
import importlib.util
import os
import os.path as osp
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from statistics import mean

from mmengine.config import Config

from poslabel_mm.engine.unwritable import make_folder
from poslabel_mm.errors import UserError
from poslabel_mm.experiments import logs
from poslabel_mm.experiments.arguments import Parser, whole_number
from poslabel_mm.experiments.command import say, say_failures
from poslabel_mm.experiments.figures import by_epoch
from poslabel_mm.experiments.launcher import TOOLS, Launcher
from poslabel_mm.experiments.manifest import load_paper
from poslabel_mm.experiments.progress import POSITION_ACCURACIES, Display
from poslabel_mm.experiments.results import gain, spread
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection, select
from poslabel_mm.experiments.work import Work, problems_of
from poslabel_mm.launch.child_processes import ChildProcesses
from poslabel_mm.launch.cpu_threads import bound_cores
from poslabel_mm.stack.config_prefix import ROOT

DESCRIPTION = """Train a small ViT on real digits, without and with positional labels.

Every run is a row of configs/digits.yml at a seed. The saved checkpoints are tested, and the
results put in a table and a picture. Finished runs are skipped and interrupted ones are
resumed: repeat the command."""
NEEDED = {'rich': 'rich', 'matplotlib': 'matplotlib', 'sklearn': 'scikit-learn'}
PICTURED = 'apl'  # the row, at the first seed
PICTURED_DIGITS = (3, 6)
PICTURED_PARTS = (0, 0.2, 0.3, 1)  # of the epochs
KEEP_ALL = 'default_hooks.checkpoint.max_keep_ckpts=-1'


def schedule_options(config: str, epochs: int) -> tuple[str, ...]:
    """A config's schedule of warm-up and decay, over other epochs.

    Args:
        config (str): Name of a shipped config whose warm-up is a tenth of its epochs.
        epochs (int): At least 2.
    """
    warmup = max(1, epochs // 10)
    return (
        f'train_cfg.max_epochs={epochs}',
        f'param_scheduler.0.end={warmup}',
        f'param_scheduler.1.begin={warmup}',
        f'param_scheduler.1.T_max={epochs - warmup}',
    )


# ------------------------------------------------------------------ results


def position_accuracies(runs: Sequence[Run]) -> dict[Run, dict[str, float]]:
    """Position accuracy on the test images, in percent, of every run with position heads."""
    from poslabel_mm.evaluation.positions import SavedModels

    return {
        run: SavedModels(dumped_config(run)).accuracies(run.checkpoint)
        for run in runs
        if 'pos_head' in run.cfg.model
    }


def dumped_config(run: Run) -> Config:
    """The config that the training left in its folder, for a test of its models."""
    cfg = Config.fromfile(run.dumped)
    cfg.work_dir = str(run.folder / 'positions')
    return cfg


def draw_picture(selection: Selection, pictured: Run, seeds: Sequence[int], path: Path) -> None:
    """Draw the pictured run's predictions over its epochs, and all rows' curves."""
    import numpy as np

    from poslabel_mm.evaluation.positions import SavedModels
    from poslabel_mm.visualization.position_map import Curves, Snapshot, draw_training

    models = SavedModels(dumped_config(pictured))
    chosen = [models.classes.index(digit) for digit in PICTURED_DIGITS]
    epochs = pictured.cfg.train_cfg.max_epochs
    snapshots = []
    for epoch in sorted({max(1, round(epochs * part)) for part in PICTURED_PARTS}):
        checkpoint = pictured.folder / f'epoch_{epoch}.pth'
        if not checkpoint.is_file():
            continue  # trained when another seed was the pictured one
        predicted, grid_shape = models.predicted(checkpoint)
        correct = predicted == np.arange(predicted.shape[1])
        snapshots.append(Snapshot(epoch, predicted[chosen], 100 * correct.mean()))
    curves = []
    for _, row in selection.rows:
        runs = [selection.row_run(row, seed) for seed in seeds]
        losses = [list(by_epoch(run, 'loss_cls').values()) for run in runs]
        positions = [
            list(by_epoch(run, key).values())
            for run in runs
            for key in POSITION_ACCURACIES
            if by_epoch(run, key)
        ]
        curves.append(Curves(row.name, np.array(losses), np.array(positions)))
    images = np.stack([models.images[i][0] for i in chosen])
    draw_training(images, grid_shape, snapshots, curves, path)


@contextmanager
def output_to(path: str | Path) -> Iterator[None]:
    """Keep what MMEngine prints, and its warnings, off the screen."""
    with open(path, 'w') as out, redirect_stdout(out), redirect_stderr(out):
        yield


def print_table(
    console, selection: Selection, seeds: Sequence[int], positions: dict[Run, dict[str, float]]
) -> None:
    """Means over the seeds, and the standard deviation between them."""
    from rich.table import Table

    (manifest_table, _), *_ = selection.rows
    measured = {
        row.id: {seed: selection.row_run(row, seed).metrics() for seed in seeds}
        for _, row in selection.rows
    }
    table = Table(title=f'test images, {len(seeds)} seed(s): mean ± standard deviation')
    table.add_column('trained with')
    for title in ('top-1 %', 'gain by seed', 'positions %', 'seconds'):
        table.add_column(title, justify='right')
    for _, row in selection.rows:
        runs = [selection.row_run(row, seed) for seed in seeds]
        accuracies = [mean(positions[run].values()) for run in runs if run in positions]
        table.add_row(
            row.name,
            spread([m['accuracy/top1'] for m in measured[row.id].values()]),
            gain(row, measured) or '-',
            spread(accuracies) or '-',
            f'{mean(logs.training_seconds(run.folder) for run in runs):.0f}',
        )
    console.print(table)


def print_next_steps(pictured: Run, work_dir: Path, picture: Path) -> None:
    python = _typed(Path(sys.executable), resolve=False)
    config = _typed(ROOT / pictured.config)
    say(
        '\n'.join(
            [
                f'logs and checkpoints   {_typed(work_dir)}',
                f'picture                {_typed(picture)}',
                '',
                'Next:',
                "  test a saved checkpoint with all of MMPretrain's options",
                f'    {python} {_typed(TOOLS)}/test.py {config} {_typed(pictured.checkpoint)}',
                '  train at a seed of your own',
                f'    {python} {_typed(TOOLS)}/train.py {config} --cfg-options randomness.seed=7',
                "  the paper's ViT-B/16 on ImageNet (in data/imagenet), 8 GPUs",
                f'    PYTHON={python} {_typed(TOOLS)}/dist_train.sh '
                f'{_typed(ROOT / "vit-b_apl_in1k.py")} 8',
            ]
        )
    )


def _typed(path: Path, resolve: bool = True) -> str:
    """A path as one would type it here; .venv/bin/python must stay a link."""
    path = path.resolve() if resolve else Path(osp.abspath(path))
    return shlex.quote(osp.relpath(path))


# ------------------------------------------------------------------ the command


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--seeds',
        type=whole_number(0),
        nargs='+',
        default=[0, 1],
        metavar='SEED',
        help='default: 0 1',
    )
    parser.add_argument('--epochs', type=whole_number(2), help="default: the configs'")
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/quickstart'), help='default: %(default)s'
    )
    parser.add_argument(
        '--jobs',
        type=whole_number(1),
        default=bound_cores(),
        help='runs at a time, of one thread each (default: the CPU cores)',
    )
    parser.add_argument('--force', action='store_true', help='repeat finished runs')
    args = parser.parse_args(argv)
    args.seeds = list(dict.fromkeys(args.seeds))
    return args


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
    from rich.console import Console

    # The models are too small for a GPU to pay, and one thread each makes the table the same
    # on any number of cores.
    os.environ.update(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    began = time.monotonic()
    paper = load_paper('digits')
    rows, _ = select(paper, [1], [], [])
    options = schedule_options(rows[0][1].config, args.epochs) if args.epochs else ()
    selection = Selection(
        rows,
        (),
        args.work_dir,
        options=options,
        title=paper.title,
        folder=f'{args.epochs}epochs' if args.epochs else '',
    )
    pictured = selection.row_run(paper.table(1).row(PICTURED), args.seeds[0])
    runs = [
        replace(run, options=(*run.options, KEEP_ALL)) if run == pictured else run
        for run in selection.runs(args.seeds)
    ]
    if args.force:
        remove(runs)
    problems = problems_of(runs)
    if problems:
        say_failures(problems)
        return 1
    needed = [run for run in runs if not run.is_done]
    for run in runs:
        if run not in needed:
            say(f'done before: {run.name}')
    make_folder(args.work_dir)
    children = ChildProcesses(notice='stopping after the iteration under way ...')
    console = Console(highlight=False)
    work = Work(Launcher(TOOLS), children, Display(needed, console), args.jobs)
    failures = work.do_all(needed, lambda: None)
    if children.told is not None:
        return work.say_stopped()
    if failures:
        say_failures(failures)
        return 1
    children.restore()
    picture = selection.parent / 'positions.png'
    with console.status('testing the positions, drawing the picture'), output_to(os.devnull):
        positions = position_accuracies(list(selection.runs(args.seeds)))
        draw_picture(selection, pictured, args.seeds, picture)
    print_table(console, selection, args.seeds, positions)
    say(f'in {time.monotonic() - began:.0f} s')
    print_next_steps(pictured, args.work_dir, picture)
    return 0


def remove(runs: Sequence[Run]) -> None:
    """Remove what runs have left.

    Raises:
        UserError: If a folder holds files of another origin, or somebody is at work in it.
    """
    for run in runs:
        if not run.folder.is_dir():
            continue
        if run.record() is None:
            raise UserError(
                f'{run.folder} holds files of another origin: choose another --work-dir'
            )
        if run.state().is_running:
            raise UserError(f'another process is at work in {run.folder}')
    for run in runs:
        shutil.rmtree(run.folder, ignore_errors=True)
