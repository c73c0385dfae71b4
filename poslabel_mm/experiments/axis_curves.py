"""A picture of a table on an axis: the accuracy of its rows, and their gains with intervals."""

import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

from poslabel_mm.experiments.gains import DIGEST, DPI, SIZE, Measured, digest
from poslabel_mm.experiments.manifest import Row, Table
from poslabel_mm.experiments.recorded import METRICS
from poslabel_mm.experiments.results import gains_by_seed, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 8.6, 3.6  # inches, without the legend
LEGEND_ROW = 0.2  # inches
LEAST_GAP = 0.06  # between two numbers below the axis, as a part of it
BESIDE = 0.012  # between the intervals of two curves, as a part of the axis
# Where a logarithmic axis has a place at 0, it is linear up to about so many times the next one.
LINEAR = 5


class Curve(NamedTuple):
    """The values of all rows of one name.

    Attributes:
        name (str): That of the rows.
        over (str): The name of their baseline, or its place where it is on the curve; empty
            without one.
        accuracy (dict[float, dict[int, float]]): By the place on the axis and by seed.
        gain (dict[float, dict[int, float]]): By the place on the axis, over the baseline seed by
            seed.
    """

    name: str
    over: str
    accuracy: dict[float, dict[int, float]]
    gain: dict[float, dict[int, float]]


def curves_of(table: Table, measured: Measured) -> list[Curve]:
    """The curves of a table that has an axis, in the order of its rows.

    The accuracies are of the seeds that all places of all curves have, if there is one: means over
    other seeds here and there would bend the curves. The gains of a curve are of the seeds that
    all of its places have.

    Args:
        table (Table): Rows without a value have no place.
        measured (Mapping): The metrics of every row, by its id and by seed.
    """
    found: dict[str, Curve] = {}
    for row in table.rows:
        curve = found.setdefault(row.name, Curve(row.name, _over(table, row.name), {}, {}))
        for x, metric in _places(table, row):
            values = {s: m[metric] for s, m in measured[row.id].items() if metric in m}
            if values:
                curve.accuracy[x] = values
            gained = gains_by_seed(row, measured, metric)
            if gained:
                curve.gain[x] = gained
    curves = [curve for curve in found.values() if curve.accuracy]
    _keep_common_seeds([curve.accuracy for curve in curves])
    for curve in curves:
        _keep_common_seeds([curve.gain])
    return curves


def _keep_common_seeds(curves: Iterable[dict[float, dict[int, float]]]) -> None:
    """Leave, in place, the seeds that all places have, if there is one."""
    curves = list(curves)
    seeds = [set(values) for curve in curves for values in curve.values()]
    common = set.intersection(*seeds) if seeds else set()
    for curve in curves if common else ():
        for x, values in curve.items():
            curve[x] = {seed: values[seed] for seed in sorted(common)}


def _over(table: Table, name: str) -> str:
    """What the gains of the rows of a name are taken over."""
    for row in table.rows:
        if row.name == name and row.baseline is not None:
            base = table.row(row.baseline)
            if base.name != name or base.x is None:
                return base.name
            return f'{table.axis.title} = {base.x:g}'
    return ''


def _places(table: Table, row: Row) -> Iterable[tuple[float, str]]:
    """The places of a row on its table's axis, and the metric that stands there."""
    axis = table.axis
    if axis.metrics:
        return [(x, METRICS.get(metric, metric)) for metric, x in axis.metrics.items()]
    return [] if row.x is None else [(row.x, table.key)]


def drawn_values(table: Table, measured: Measured) -> dict[str, list[float]]:
    """What :func:`curves_png` shows, by curve and place; nothing until a curve has two places."""
    found = {}
    curves = curves_of(table, measured)
    for curve in curves if any(len(curve.accuracy) > 1 for curve in curves) else ():
        for x, values in curve.accuracy.items():
            found[f'{curve.name} at {x:g}'] = list(values.values())
        for x, values in curve.gain.items():
            found[f'gain of {curve.name} at {x:g}'] = list(values.values())
    return found


def scale_of(places: Sequence[float], log: bool) -> tuple[dict, Callable[[float], float]]:
    """Matplotlib's arguments for the scale of an axis, and how far along it a place is.

    Args:
        places (Sequence[float]): Ascending. Of a logarithmic axis, none is negative.
        log (bool): Whether equal steps are equal factors, but for those near a place at 0.
    """
    if not log or places[-1] == 0:
        return dict(value='linear'), float
    if places[0] > 0:
        return dict(value='log'), math.log
    width = LINEAR * next(x for x in places if x > 0)
    return dict(value='asinh', linear_width=width), lambda x: math.asinh(x / width)


def tick_labels(places: Sequence[float], log: bool) -> list[str]:
    """The numbers below an axis; empty where one would lie over that before it.

    Args:
        places (Sequence[float]): Ascending.
        log (bool): As of :func:`scale_of`.
    """
    _, distance = scale_of(places, log)
    along = list(map(distance, places))
    least = LEAST_GAP * (along[-1] - along[0])
    labels, last = [], -math.inf
    for x, place in zip(places, along):
        shown = place - last >= least
        labels.append(f'{x:g}' if shown else '')
        last = place if shown else last
    return labels


def colors_of(table: Table, tables: Iterable[Table]) -> dict[str, int]:
    """The number of each curve's colour: a name that several tables have keeps it in all of them.

    Where those are more names than colours, each table counts its own.

    Args:
        table (Table): Has an axis.
        tables (Iterable[Table]): All of the manifest.
    """
    from poslabel_mm.visualization.curves import CURVE_COLORS

    names = {other.id: _names(other) for other in tables if other.axis}
    names[table.id] = _names(table)
    count = Counter(name for of_table in names.values() for name in set(of_table))
    everywhere = dict.fromkeys(name for of_table in names.values() for name in of_table)
    shared = [name for name in everywhere if count[name] > 1]
    if len(shared) > len(CURVE_COLORS):
        shared = []
    colors = {name: shared.index(name) for name in names[table.id] if name in shared}
    free = (i for i in itertools.count() if i not in colors.values())
    for name in names[table.id]:
        if name not in colors:
            colors[name] = next(free)
    return colors


def _names(table: Table) -> list[str]:
    """The names of a table's curves."""
    return [row.name for row in table.rows if any(_places(table, row))]


def levels_of(table: Table, measured: Measured) -> dict[str, dict[int, float]]:
    """What curves are compared with that has no place on the axis, by name and by seed.

    It is of the seeds that the curves are of, if those are the same everywhere and it has them.
    """
    of_curves = {tuple(v) for curve in curves_of(table, measured) for v in curve.accuracy.values()}
    seeds = of_curves.pop() if len(of_curves) == 1 else ()
    bases = {row.baseline for row in table.rows if any(_places(table, row))}
    found = {
        row.name: {
            seed: measured[row.id][seed][table.key]
            for seed in seeds
            if table.key in measured[row.id].get(seed, ())
        }
        for row in table.rows
        if row.id in bases and not any(_places(table, row))
    }
    return {name: values for name, values in found.items() if values and len(values) == len(seeds)}


def curves_png(
    table: Table, measured: Measured, title: str, tables: Iterable[Table] = ()
) -> bytes | None:
    """Draw a table that has an axis: accuracy on the left, gains on the right.

    Args:
        table (Table): What is compared.
        measured (Mapping): The metrics of every row, by its id and by seed.
        title (str): The heading, which names the scale and the data.
        tables (Iterable[Table]): All of the manifest, for a name to have one colour in their
            pictures. Defaults to this one alone.

    Returns:
        bytes | None: A PNG; None without a curve that has two places.
    """
    from matplotlib.figure import Figure

    from poslabel_mm.visualization.curves import CURVE_COLORS, Band, draw_bands
    from poslabel_mm.visualization.sheet import wrapped

    drawn = drawn_values(table, measured)
    if not drawn:
        return None
    tables = list(tables)
    colors = colors_of(table, tables)
    curves = sorted(curves_of(table, measured), key=lambda curve: colors[curve.name])
    levels = levels_of(table, measured)
    height = HEIGHT + LEGEND_ROW * (len(curves) + len(levels))
    figure = Figure((WIDTH, height), dpi=DPI, layout='constrained')
    left, right = figure.subplots(1, 2)
    ticks = sorted({x for curve in curves for x in curve.accuracy})
    scale, _ = scale_of(ticks, table.axis.log)
    for axes in left, right:
        axes.set_xscale(**scale)
        axes.minorticks_off()
        axes.set_xticks(ticks, tick_labels(ticks, table.axis.log), fontsize=SIZE)
        axes.tick_params(axis='y', labelsize=SIZE)
        axes.set_xlabel(table.axis.title, fontsize=SIZE)
        for side in 'top', 'right':
            axes.spines[side].set_visible(False)

    means = [None] * (1 + max(colors.values()))
    for curve in curves:
        places = sorted(curve.accuracy)
        y = [mean(curve.accuracy[x].values()) for x in places]
        means[colors[curve.name]] = Band(curve.name, places, y, y, y)
    draw_bands(left, means, marker='o')
    of_seeds = _seeds(values for curve in curves for values in curve.accuracy.values())
    left.set_title(f'{table.heading} (%): mean of {of_seeds}', fontsize=SIZE)
    for name, values in levels.items():
        left.axhline(mean(values.values()), color='black', ls='--', lw=1.2, label=name)

    compared = [curve for curve in curves if curve.gain]
    for place, curve in enumerate(compared):
        color = CURVE_COLORS[colors[curve.name] % len(CURVE_COLORS)]
        # Side by side, so that the intervals of a place are told apart.
        beside = (place - (len(compared) - 1) / 2) * BESIDE
        at = {x: _moved(left, x, beside) for x in sorted(curve.gain)}
        y = [mean(curve.gain[x].values()) for x in at]
        right.plot(
            at.values(),
            y,
            'o-',
            color=color,
            lw=1.2,
            ms=5,
            label=f'{curve.name}  over  {curve.over}',
        )
        for x in at:
            ends = interval(list(curve.gain[x].values()))
            if ends:
                right.plot([at[x]] * 2, ends, color=color, lw=2, solid_capstyle='butt')
    right.axhline(0, color='black', lw=0.8)
    right.grid(axis='y', color='#DDDDDD', lw=0.8)
    right.set_axisbelow(True)
    right.set_xlim(left.get_xlim())
    least = min((len(v) for curve in curves for v in curve.gain.values()), default=0)
    whole = least > 2
    parts = 'mean, 95 % interval' if whole else 'mean, 95 % interval from three seeds on'
    right.set_title(
        wrapped(f'gain in {table.heading} (points): {parts}', WIDTH / 2, SIZE), fontsize=SIZE
    )

    for axes in left, right:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                loc='upper center', bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=SIZE - 1
            )
    figure.suptitle(wrapped(title, WIDTH - 1, SIZE), fontsize=SIZE)
    image = io.BytesIO()
    figure.savefig(
        image, format='png', metadata={DIGEST: digest_of_curves(table, measured, title, tables)}
    )
    return image.getvalue()


def digest_of_curves(
    table: Table, measured: Measured, title: str, tables: Iterable[Table] = ()
) -> str:
    """What the picture of :func:`curves_png` has in its field :data:`~.gains.DIGEST`."""
    curves, colors = curves_of(table, measured), colors_of(table, tables)
    looks = [(curve.name, curve.over, colors[curve.name]) for curve in curves]
    levels = {name: mean(values.values()) for name, values in levels_of(table, measured).items()}
    seeds = _seeds(values for curve in curves for values in curve.accuracy.values())
    headings = title, table.heading, table.gain, vars(table.axis), seeds
    return digest(drawn_values(table, measured), headings, looks, levels)


def _seeds(by_seed: Iterable[Mapping[int, float]]) -> str:
    """Name the seeds of values, or how many there are where they differ."""
    found = {tuple(values) for values in by_seed}
    if not found:
        return 'no seeds'
    if len(found) > 1:
        least, most = min(map(len, found)), max(map(len, found))
        return (
            f'{least} to {most} seeds' if least < most else f'{most} seed{"s" * (most > 1)} each'
        )
    (seeds,) = found
    return f'seed{"s" * (len(seeds) > 1)} {", ".join(map(str, seeds))}'


def _moved(axes: 'Axes', x: float, part: float) -> float:
    """A place that is moved by a part of the axis' length."""
    scale = axes.transAxes + axes.transData.inverted()
    place = axes.transData + axes.transAxes.inverted()
    return scale.transform((place.transform((x, 0))[0] + part, 0))[0]
