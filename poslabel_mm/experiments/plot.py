"""The command ``poslabel plot``: curves of several runs, from their logs."""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from poslabel_mm.arguments import Parser
from poslabel_mm.errors import UserError

DESCRIPTION = """Losses, accuracies and position metrics of runs, from their logs.

A run is a work dir of train; folders of work dirs are searched for them. Runs whose folders
are called seed0, seed1, ... (or NAME_seed0, ...) and lie side by side are seeds of one
experiment: their mean is a line, their range a band."""
KINDS = ('.png', '.pdf', '.svg')
SEED = re.compile(r'(.*?)[_-]?seed[_-]?(\d+)')
TITLES = {
    'loss': 'sum of all losses',
    'loss_cls': 'classification loss',
    'loss_recon': 'reconstruction loss',
    'loss_apl': 'position loss, absolute, weighted',
    'loss_rpl': 'position loss, relative, weighted',
    'apl_acc': 'absolute positions right in training (%)',
    'rpl_acc': 'relative positions right in training (%)',
    'accuracy/top1': 'top-1 accuracy in validation (%)',
    'accuracy/top5': 'top-5 accuracy in validation (%)',
    'knn/top1': 'k-NN top-1 accuracy of the features (%)',
    'linear/top1': 'linear probe top-1 accuracy of the features (%)',
    'rankme': 'effective rank of the features (RankMe)',
    'position/apl_top1': 'absolute positions right in validation (%)',
    'position/apl_distance': 'distance to the true place in validation (patches)',
    'position/apl_within1': 'places at most one patch off in validation (%)',
    'position/rpl_pairs': 'pairs whose offset is right in validation (%)',
    'position/rpl_rows': "pairs whose offset's row is right in validation (%)",
    'position/rpl_columns': "pairs whose offset's column is right in validation (%)",
    'position/r2': 'R² of a linear read-out of position',
    'position/r2_permuted': 'R² of permuted positions (control)',
}
# What a validation logs beside its metrics.
NO_METRIC = ('step', 'time', 'data_time', 'iter', 'epoch')
COLUMNS, PANEL = 3, (3.6, 2.7)  # panels side by side; width and height of one, in inches


class Experiment(NamedTuple):
    """Runs that differ in the seed alone.

    Attributes:
        name (str): For the legend.
        curves (list[dict[str, dict[int, float]]]): Of every seed a curve by its key in the log,
            a value by its epoch.
    """

    name: str
    curves: list[dict[str, dict[int, float]]]


def main(argv: Sequence[str], prog: str = 'poslabel plot') -> int:
    """Run the command; see :data:`DESCRIPTION`.

    Returns:
        int: The exit status.

    Raises:
        UserError: If a folder has no log, a key is not in it, or FILE cannot be written.
    """
    args = parse_args(argv, prog)
    if args.out.suffix.lower() not in KINDS:
        raise UserError(f'--out {args.out} must end in {" or ".join(KINDS)}')
    experiments = read_experiments(args.work_dirs)
    keys = choose_keys(experiments, args.keys)
    # The help has to answer at once.
    from poslabel_mm.engine.files import write_atomically

    write_atomically(draw(experiments, keys, args.out.suffix.lower()[1:]), args.out)
    print(args.out)
    for note in left_out(experiments, keys):
        print(f'note: {note}', file=sys.stderr)
    return 0


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the command's arguments.

    Raises:
        UserError: If one is wrong.
    """
    parser = Parser(prog, DESCRIPTION)
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIRS', help='work dirs of runs')
    parser.add_argument(
        '--out', type=Path, required=True, metavar='FILE', help='a PNG, PDF or SVG file'
    )
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='KEY',
        help='what to draw, by its name in the log, such as loss_cls apl_acc accuracy/top1 '
        '(default: all losses, accuracies and validation metrics)',
    )
    return parser.parse_args(argv)


# --------------------------------------------------------------------------------- what is logged


def read_experiments(folders: Sequence[str]) -> list[Experiment]:
    """The curves of the runs in some folders.

    Args:
        folders (Sequence[str]): Work dirs of runs, or folders above them.

    Returns:
        list[Experiment]: In the order given, those of a folder by name.

    Raises:
        UserError: If a folder does not exist or has no training log.
    """
    groups: dict[Path, list[Path]] = {}
    for folder in folders:
        runs = _runs_in(Path(folder))
        for run in runs:
            seed = SEED.fullmatch(run.name)
            together = run.with_name(seed[1]) if seed and seed[1] else run.parent if seed else run
            if run not in groups.setdefault(together, []):
                groups[together].append(run)
    names = _short_names(list(groups))
    experiments = [
        Experiment(name, [read_curves(run) for run in runs])
        for name, runs in zip(names, groups.values())
    ]
    _name_stock_losses(experiments)
    return experiments


def _name_stock_losses(experiments: Sequence[Experiment]) -> None:
    """Let the only loss of a stock model compare with the same loss beside position losses.

    MMEngine logs it as ``loss``, the sum of all.
    """
    curves = [curve for experiment in experiments for curve in experiment.curves]
    own = {key for key in ('loss_cls', 'loss_recon') for curve in curves if key in curve}
    if len(own) == 1:
        (key,) = own
        for curve in curves:
            if not any(name.startswith('loss_') for name in curve) and 'loss' in curve:
                curve[key] = curve['loss']


def _runs_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f'{folder} is no folder: name work dirs of runs, or a folder of them')
    # Of every process that trained: RUN/TIME/vis_data/scalars.json.
    logs = folder.resolve().rglob('vis_data/scalars.json')
    runs = sorted({log.parents[2] for log in logs})
    if not runs:
        raise UserError(
            f'{folder} has no training log (TIME/vis_data/scalars.json, which LocalVisBackend '
            'writes): name work dirs of runs'
        )
    return [folder.resolve() / run.relative_to(folder.resolve()) for run in runs]


def _short_names(folders: list[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ['/'.join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def read_curves(run: Path) -> dict[str, dict[int, float]]:
    """What a run has logged, by epoch.

    Args:
        run (Path): Its work dir.

    Returns:
        dict: Losses and training accuracies as their means over an epoch, metrics of validations
        as they are, by key and epoch. What is not finite is left out.
    """
    from poslabel_mm.experiments import logs

    values: dict[str, dict[int, list[float]]] = {}
    for entry in logs.entries(run):
        for key, value in entry.items():
            if ('loss' in key or key.endswith('_acc')) and _is_finite(value):
                values.setdefault(key, {}).setdefault(int(entry['epoch']), []).append(value)
    curves = {
        key: {epoch: sum(found) / len(found) for epoch, found in sorted(epochs.items())}
        for key, epochs in values.items()
    }
    # Of a run without epochs the steps are iterations.
    for entry in logs.validations(run) if curves else ():
        for key, value in entry.items():
            if key not in NO_METRIC and _is_finite(value):
                curves.setdefault(key, {})[int(entry['step'])] = value
    return curves


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def choose_keys(experiments: Sequence[Experiment], asked: Sequence[str] | None) -> list[str]:
    """What is drawn: the keys asked for, or all that the logs have.

    Raises:
        UserError: If no log has one of the keys, or any.
    """
    found = {key for experiment in experiments for curves in experiment.curves for key in curves}
    order = {key: i for i, key in enumerate(TITLES)}
    known = sorted(found, key=lambda key: (order.get(key, len(order)), key))
    if not known:
        names = ', '.join(experiment.name for experiment in experiments)
        raise UserError(
            f'the logs of {names} have no losses of epochs to draw: wait for the first epoch, or '
            'train by epochs, with train_cfg.by_epoch=True'
        )
    missing = [key for key in asked or () if key not in found]
    if missing:
        raise UserError(f'no log has {" or ".join(missing)}: choose from {", ".join(known)}')
    return list(asked or known)


def common_epochs(experiment: Experiment, key: str) -> list[int]:
    """The epochs at which all seeds that log a key have a value of it.

    With fewer seeds, the mean would jump where one begins or ends.
    """
    of_seeds = [set(curves[key]) for curves in experiment.curves if key in curves]
    return sorted(set.intersection(*of_seeds)) if of_seeds else []


def left_out(experiments: Sequence[Experiment], keys: Sequence[str]) -> list[str]:
    """Notes of what the logs have and the picture has not, a line an experiment and key."""
    notes = []
    for experiment in experiments:
        for key in keys:
            seeds = [curves[key] for curves in experiment.curves if key in curves]
            drawn = common_epochs(experiment, key)
            missing = sorted(set().union(*seeds).difference(drawn))
            if missing:
                span = f'{missing[0]} to {missing[-1]}' if len(missing) > 1 else f'{missing[0]}'
                notes.append(
                    f'{key} of {experiment.name}: {len(missing)} '
                    f'epoch{"s" * (len(missing) > 1)} ({span}) left out, which some seeds lack'
                )
            if 0 < len(seeds) < len(experiment.curves):
                notes.append(
                    f'{key} of {experiment.name}: {len(experiment.curves) - len(seeds)} of '
                    f'{len(experiment.curves)} seeds have none'
                )
    return notes


# ------------------------------------------------------------------------------------ the picture


def draw(experiments: Sequence[Experiment], keys: Sequence[str], kind: str) -> bytes:
    """Draw a panel a key, with a curve an experiment.

    Args:
        experiments (Sequence[Experiment]): The experiments.
        keys (Sequence[str]): Keys of their curves.
        kind (str): 'png', 'pdf' or 'svg'.

    Returns:
        bytes: The file.

    Raises:
        UserError: Without matplotlib.
    """
    import io

    figure = make_figure(experiments, keys)
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=figure.dpi)
    return file.getvalue()


def make_figure(experiments: Sequence[Experiment], keys: Sequence[str]):
    """As :func:`draw`; returns the matplotlib ``Figure``."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            'the curves need matplotlib: install the extra poslabel_mm[tools], or matplotlib '
            'itself'
        ) from None
    from poslabel_mm.visualization.curves import count_epochs, draw_bands
    from poslabel_mm.visualization.sheet import DPI, wrapped

    columns = min(COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    seeds = [len(experiment.curves) for experiment in experiments]
    labels = [wrapped(experiment.name, columns * PANEL[0] - 1, 10) for experiment in experiments]
    below = 0.25 * sum(label.count('\n') + 1 for label in labels) + 0.35
    height = rows * PANEL[1] + below
    figure = Figure(
        figsize=(columns * PANEL[0], height), facecolor='white', dpi=DPI, layout='constrained'
    )
    figure.get_layout_engine().set(rect=(0, below / height, 1, 1 - below / height))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, key in zip(axes, keys):
        bands = [_band(experiment, key) for experiment in experiments]
        epochs = sorted({x for band in bands if band is not None for x in band.x})
        draw_bands(panel, bands, marker='o' if len(epochs) < 10 else None)
        count_epochs(panel, epochs)
        panel.set_title(wrapped(TITLES.get(key, key), PANEL[0] - 0.5, 10), fontsize=10, loc='left')
        panel.tick_params(labelsize=9)
        panel.ticklabel_format(axis='y', useOffset=False)
        for side in 'top', 'right':
            panel.spines[side].set_visible(False)
    for panel in axes[len(keys) :]:
        panel.remove()
    title = None
    if max(seeds) > 1:
        number = str(max(seeds)) if min(seeds) == max(seeds) else f'{min(seeds)} to {max(seeds)}'
        title = f'mean and range of {number} seeds'
    handles = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    names = [experiment.name for experiment in experiments if experiment.name in handles]
    figure.legend(
        [handles[name] for name in names],
        [label for label, e in zip(labels, experiments) if e.name in handles],
        loc='lower left',
        frameon=False,
        alignment='left',
        title=title,
        title_fontsize=9,
        fontsize=10,
    )
    return figure


def _band(experiment: Experiment, key: str):
    """The curve of a key with the range of the seeds; None where no epoch has it of all seeds."""
    import numpy as np

    from poslabel_mm.visualization.curves import range_of_seeds

    epochs = common_epochs(experiment, key)
    if not epochs:
        return None
    values = np.array(
        [[curves[key][epoch] for epoch in epochs] for curves in experiment.curves if key in curves]
    )
    return range_of_seeds(experiment.name, epochs, values)
