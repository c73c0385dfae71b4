"""Curves of several seeds: the mean as a line, the spread of the seeds as a band."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE, PURPLE, GREEN = '#0072B2', '#E69F00', '#CC79A7', '#009E73'
VERMILION, SKY = '#D55E00', '#56B4E9'
GREY = '#555555'
CURVE_COLORS = [GREY, BLUE, PURPLE, GREEN, ORANGE, VERMILION, SKY]
# Curves beyond the colours differ by their lines, and all of them do without colour.
MOST_TICKS = 6
LINE_STYLES = ['-', '--', '-.', ':']


class Band(NamedTuple):
    """A curve with the spread around it.

    Attributes:
        label (str): For the legend.
        x (Sequence[float]): Where it has values, ascending.
        middle, low, high (Sequence[float]): The curve, and the edges of its band.
    """

    label: str
    x: Sequence[float]
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def range_of_seeds(label: str, x: Sequence[float], values: np.ndarray) -> Band:
    """The mean of the seeds, in a band from the lowest to the highest.

    Args:
        label (str): For the legend.
        x (Sequence[float]): n values.
        values (np.ndarray): (seeds, n).
    """
    return Band(label, x, values.mean(0), values.min(0), values.max(0))


def draw_bands(axes: Axes, bands: Sequence[Band | None], marker: str | None = None) -> None:
    """Draw curves with their bands.

    A curve keeps its colour and line whatever the others are: None in its place takes them.

    Args:
        axes (Axes): Where to draw.
        bands (Sequence[Band | None]): The curves.
        marker (str, optional): Matplotlib's, at every value. Defaults to None: where a curve has
            a single value.
    """
    for i, band in enumerate(bands):
        if band is None or not len(band.x):
            continue
        color = CURVE_COLORS[i % len(CURVE_COLORS)]
        style = LINE_STYLES[i // len(CURVE_COLORS) % len(LINE_STYLES)]
        axes.plot(
            band.x,
            band.middle,
            color=color,
            ls=style,
            lw=2,
            marker=marker or ('o' if len(band.x) == 1 else None),
            label=band.label,
            zorder=3,
        )
        axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.25, lw=0)
        if np.any(np.asarray(band.high) > np.asarray(band.low)):
            for edge in band.low, band.high:  # thin bands are seen by them
                axes.plot(band.x, edge, color=color, lw=0.7, alpha=0.7)
    axes.grid(axis='y', color='#DDDDDD', lw=0.8)
    axes.set_axisbelow(True)


def count_epochs(axes: Axes, epochs: Sequence[float]) -> None:
    """Let the horizontal axis count epochs.

    Args:
        axes (Axes): With the curves drawn.
        epochs (Sequence[float]): Those that have values, ascending. Where they are few, they are
            the ticks.
    """
    axes.set_xlabel('epoch')
    few = len(epochs) <= MOST_TICKS
    axes.xaxis.set_major_locator(
        FixedLocator(epochs) if few else MaxNLocator(integer=True, min_n_ticks=1)
    )
    if len(epochs):
        # The first marker is whole.
        margin = 0.03 * (epochs[-1] - epochs[0]) or 0.5
        axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)


def draw_curves(axes: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """Draw the mean over the seeds by epoch, with the range of the seeds as a band.

    Args:
        axes (Axes): Where to draw.
        curves (Mapping[str, np.ndarray]): Label and values of every curve, (seeds, epochs). A
            curve without seeds takes a colour and is left out.
    """
    draw_bands(
        axes,
        [
            range_of_seeds(label, np.arange(1, values.shape[1] + 1), values)
            if len(values)
            else None
            for label, values in curves.items()
        ],
    )
    longest = max((values.shape[1] for values in curves.values() if len(values)), default=0)
    count_epochs(axes, np.arange(1, longest + 1))
