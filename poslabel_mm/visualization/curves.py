"""Training curves of several seeds: the mean as a line, the seeds' range as a band."""

import numpy as np
from matplotlib.axes import Axes

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE, PURPLE, GREEN = '#0072B2', '#E69F00', '#CC79A7', '#009E73'
GREY = '#555555'
CURVE_COLORS = [GREY, BLUE, PURPLE, GREEN, ORANGE]


def draw_curves(axes: Axes, curves: dict[str, np.ndarray]) -> None:
    """Draw the mean over the seeds, with the range of the seeds as a band.

    Args:
        axes (Axes): Where to draw.
        curves (dict[str, np.ndarray]): Label and values of every curve, (seeds, epochs). A
            curve without seeds takes a colour and is left out.
    """
    for (label, values), color in zip(curves.items(), CURVE_COLORS):
        if not len(values):
            continue
        epochs = np.arange(1, values.shape[1] + 1)
        axes.plot(epochs, values.mean(0), color=color, lw=2.2, label=label)
        axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.18, lw=0)
    axes.set_xlabel('epoch')
    axes.set_xlim(left=1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis='y', color='#DDDDDD', lw=0.8)
    axes.set_axisbelow(True)
