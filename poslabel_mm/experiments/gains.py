"""A picture of the gains of a table: every seed, their mean and its 95 % interval."""

import hashlib
import io
import json
from collections.abc import Mapping
from statistics import mean
from typing import Any

from poslabel_mm.experiments.manifest import Table
from poslabel_mm.experiments.results import gain_metric, gains, interval

WIDTH, ROW_HEIGHT, MARGINS, NAME_WIDTH = 7.2, 0.33, 1.2, 3.6  # inches
SIZE, DPI = 9, 130
DIGEST = 'Description'  # the field of the PNG that tells what was drawn

Measured = Mapping[str, Mapping[int, Mapping[str, float]]]


def drawn_gains(table: Table, measured: Measured) -> dict[str, list[float]]:
    """The gains that the picture shows, by what is compared, seed by seed.

    Args:
        table (Table): Rows without a baseline, or without two seeds in common with it, have none.
        measured (Mapping): The metrics of every row, by its id and by seed.
    """
    found = {
        f'{row.name}  over  {table.row(row.baseline).name}': gains(
            row, measured, gain_metric(table)
        )
        for row in table.rows
        if row.baseline
    }
    return {name: values for name, values in found.items() if len(values) > 1}


def digest(drawn: Mapping[str, list[float]], *looks: Any) -> str:
    """What a picture has in its field :data:`DIGEST`.

    Args:
        drawn (Mapping[str, list[float]]): The values that it shows.
        looks: What else makes it what it is, as JSON takes it.
    """
    values = {name: [round(value, 2) for value in drawn[name]] for name in drawn}
    text = json.dumps([values, *looks])
    return f'gains {hashlib.sha256(text.encode()).hexdigest()[:16]}'


def gains_png(table: Table, measured: Measured, title: str) -> bytes | None:
    """Draw the gains of a table.

    Args:
        table (Table): What is compared.
        measured (Mapping): The metrics of every row, by its id and by seed.
        title (str): The heading, which names the scale and the data.

    Returns:
        bytes | None: A PNG; None without a row that has gains at two seeds.
    """
    from matplotlib.figure import Figure

    from poslabel_mm.visualization.curves import BLUE, GREY
    from poslabel_mm.visualization.sheet import wrapped

    drawn = drawn_gains(table, measured)
    if not drawn:
        return None
    figure = Figure((WIDTH, ROW_HEIGHT * len(drawn) + MARGINS), dpi=DPI, layout='constrained')
    axes = figure.subplots()
    for place, values in enumerate(drawn.values()):
        axes.plot(values, [place + 0.25] * len(values), 'o', color=GREY, alpha=0.6, ms=4, mew=0)
        ends = interval(values)
        if ends:
            axes.plot(ends, [place] * 2, color=BLUE, lw=2, solid_capstyle='butt')
        axes.plot(mean(values), place, 'D', color=BLUE, ms=6)
    axes.axvline(0, color='black', lw=0.8)
    names = [wrapped(name, NAME_WIDTH, SIZE) for name in drawn]
    axes.set_yticks(range(len(drawn)), names, fontsize=SIZE)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.grid(axis='x', color='#DDDDDD', lw=0.8)
    axes.set_axisbelow(True)
    for side in 'top', 'right', 'left':
        axes.spines[side].set_visible(False)
    axes.tick_params(axis='y', length=0)
    with_interval = [values for values in drawn.values() if interval(values)]
    parts = 'mean'
    if with_interval:
        parts += ' and 95 % interval'
    if 0 < len(with_interval) < len(drawn):
        parts += ', from three seeds on'
    text = f'gain in {table.gain} (points): {parts}; below them the seeds'
    figure.supxlabel(wrapped(text, WIDTH - 1, SIZE), fontsize=SIZE)
    figure.suptitle(wrapped(title, WIDTH - 1, SIZE), fontsize=SIZE)
    image = io.BytesIO()
    figure.savefig(image, format='png', metadata={DIGEST: digest(drawn, title, table.gain)})
    return image.getvalue()
