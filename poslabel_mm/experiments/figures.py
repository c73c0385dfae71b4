"""The paper's figures from the logs of their runs, as CSV and PNG."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from mmengine.config import Config

from poslabel_mm.engine.files import write_atomically
from poslabel_mm.errors import UserError
from poslabel_mm.experiments.folder_check import difference_of
from poslabel_mm.experiments.manifest import Figure
from poslabel_mm.experiments.results import title
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import DEFAULTS, Selection
from poslabel_mm.experiments.settings import plain_config

WIDTH = 6.4  # of an image, in inches
TITLE_SIZE, DPI = 10, 150
POSITION_LOSSES = ('loss_apl', 'loss_rpl')
Y_TITLES = {
    'accuracy/top1': 'top-1 accuracy (%)',
    'loss_cls': 'classification loss',
    'position_loss': 'position loss, end of training',
}
NO_MATPLOTLIB = (
    'the figures need matplotlib: install the extra poslabel_mm[tools], or matplotlib itself'
)


def check_figures(selection: Selection) -> None:
    """Refuse a figure whose values its runs will not log.

    Raises:
        UserError: If ``y`` is ``position_loss`` and a config has no position head, or several.
    """
    for figure in selection.figures:
        for config in figure.configs if figure.y == 'position_loss' else ():
            heads = position_heads(plain_config(config, selection.scale))
            if len(heads) != 1:
                found = f'{len(heads)} position heads' if heads else 'no position head'
                raise UserError(
                    f'figure {figure.id}: position_loss is that of a single position head, and '
                    f'{config} has {found}: leave the config out, or draw another y, such as '
                    'loss_apl'
                )


def position_heads(cfg: Config) -> list[dict]:
    """The position heads of a config's model."""
    heads = cfg.model.get('pos_head') or []
    return [heads] if isinstance(heads, dict) else list(heads)


class Point(NamedTuple):
    """One value of a curve, at one seed."""

    config: str
    seed: int
    x: float
    y: float


def measured_points(selection: Selection, figure: Figure, seeds: Sequence[int]) -> list[Point]:
    """Read the measured values of a figure.

    Runs that are missing or were made with other settings are left out, and of a sweep those that
    have not ended.
    """
    found = []
    for seed in seeds:
        for config, x, run in selection.figure_runs(figure, seed):
            if difference_of(run):
                continue
            if figure.kind == 'curves':
                found += [
                    Point(config, seed, epoch, y)
                    for epoch, y in epoch_means(run, figure.y).items()
                ]
            elif run.state().epoch and run.is_trained:
                y = last_value(run, figure.y)
                if y is not None:
                    found.append(Point(config, seed, x, y))
    return found


def with_common_seeds(found: Sequence[Point], asked: Sequence[int]) -> list[Point]:
    """Keep the points of the seeds that every place of every curve has.

    A table may have more seeds of one place than a figure has of the others;
    means over other seeds here and there would bend the curves. Without a
    common seed it is those asked for, or else all.
    """
    seeds: dict[tuple[str, float], set] = {}
    for point in found:
        seeds.setdefault((point.config, point.x), set()).add(point.seed)
    common = set.intersection(*seeds.values()) if seeds else set()
    kept = [point for point in found if point.seed in (common or asked)]
    return kept or list(found)


def epoch_means(run: Run, key: str) -> dict[int, float]:
    """The mean of a logged value over every epoch."""
    epochs: dict[int, list[float]] = {}
    for entry in run.entries():
        value = logged_value(entry, key, run)
        if value is not None and math.isfinite(value):
            epochs.setdefault(int(entry['epoch']), []).append(value)
    return {epoch: mean(values) for epoch, values in sorted(epochs.items())}


def last_value(run: Run, key: str) -> float | None:
    """A metric of the test, or the mean of a logged value over the last epoch."""
    metrics = run.state().metrics or {}
    if key in metrics:
        return metrics[key]
    epochs = epoch_means(run, key)
    return epochs.get(run.cfg.train_cfg.max_epochs)


def logged_value(entry: dict[str, float], key: str, run: Run) -> float | None:
    """A key of the log, or one of the manifest's two names.

    ``loss_cls`` is what a stock classifier logs as ``loss``; ``position_loss``
    is ``loss_apl`` or ``loss_rpl`` before it is weighted, so that the values of
    different weights compare; a weight that follows a schedule has none.
    """
    if key == 'loss_cls':
        return entry.get(key, entry.get('loss'))
    if key == 'position_loss':
        default = DEFAULTS['model.pos_head.loss_weight']
        (head,) = position_heads(run.cfg)
        weight = head.get('loss_weight', default)
        value = next((entry[name] for name in POSITION_LOSSES if name in entry), None)
        if value is None or not weight or isinstance(weight, dict):
            return None
        return value / weight
    return entry.get(key)


def draw(selection: Selection, figure: Figure, asked: Sequence[int]) -> tuple[Path, Path] | None:
    """Write a figure and its values, as far as they are measured.

    Args:
        selection (Selection): Where the runs are; its rows name the curves.
        figure (Figure): What is drawn.
        asked (Sequence[int]): Seeds; those that are there as well are drawn
            too if every place of every curve has them.

    Returns:
        tuple[Path, Path] | None: The PNG and the CSV; None without a value.

    Raises:
        UserError: Without matplotlib, or if they cannot be written.
    """
    found = with_common_seeds(measured_points(selection, figure, selection.seeds(asked)), asked)
    if not found:
        return None
    stem = selection.parent / f'figure{figure.id}'
    table = io.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(['config', 'seed', figure.option or figure.x, figure.y])
    writer.writerows(found)
    write_atomically(table.getvalue().encode(), stem.with_suffix('.csv'))
    write_atomically(_png(selection, figure, found), stem.with_suffix('.png'))
    return stem.with_suffix('.png'), stem.with_suffix('.csv')


def _png(selection: Selection, figure: Figure, found: Sequence[Point]) -> bytes:
    try:
        from matplotlib.figure import Figure as Canvas

        from poslabel_mm.visualization.curves import Band, count_epochs, draw_bands
        from poslabel_mm.visualization.sheet import wrapped
    except ImportError:
        raise UserError(NO_MATPLOTLIB) from None
    canvas = Canvas(figsize=(WIDTH, 4.4), dpi=DPI, layout='constrained')
    axes = canvas.subplots()
    names = _curve_names(selection)
    bands = []
    for config in figure.configs:
        at: dict[float, list[float]] = {}
        for point in found:
            if point.config == config:
                at.setdefault(point.x, []).append(point.y)
        x = sorted(at)
        y = [mean(at[value]) for value in x]
        error = [stdev(at[value]) if len(at[value]) > 1 else 0.0 for value in x]
        bands.append(
            Band(
                names.get(config, Path(config).stem),
                x,
                y,
                [a - b for a, b in zip(y, error)],
                [a + b for a, b in zip(y, error)],
            )
        )
    few = max(len(band.x) for band in bands) < 10
    draw_bands(axes, bands, marker='o' if figure.kind == 'sweep' or few else None)
    axes.set_ylabel(Y_TITLES.get(figure.y, figure.y))
    if figure.kind == 'sweep':
        axes.set_xticks(figure.values)
    else:
        count_epochs(axes, sorted({point.x for point in found}))
    axes.set_xlabel(figure.x)
    axes.ticklabel_format(axis='y', useOffset=False)
    heading = f'Figure {figure.id}: {figure.title} ({_seed_count(found)})'
    axes.set_title(wrapped(heading, WIDTH - 1, TITLE_SIZE), fontsize=TITLE_SIZE)
    if selection.scale.data or selection.data or selection.options:
        text = title(selection).replace('`', '')
        canvas.suptitle(text, fontsize='x-small', color='firebrick', wrap=True)
    axes.legend(frameon=False)
    image = io.BytesIO()
    canvas.savefig(image, format='png', dpi=DPI)
    return image.getvalue()


def _curve_names(selection: Selection) -> dict[str, str]:
    """The name of each config: that of the first row of the tables that has it."""
    names: dict[str, str] = {}
    for _, row in selection.rows:
        names.setdefault(row.pretrain or row.config, row.name)
    return names


def _seed_count(found: Sequence[Point]) -> str:
    """The number of seeds that the points of the curves are means of, as text."""
    at: dict[tuple[str, float], int] = {}
    for point in found:
        at[point.config, point.x] = at.get((point.config, point.x), 0) + 1
    least, most = min(at.values()), max(at.values())
    number = str(most) if least == most else f'{least} to {most}'
    return f'{number} seed' + 's, mean ± standard deviation' * (most > 1)
