"""Draws the README's diagram of the method: `python docs/images/method.py [FILE]`."""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image
from sklearn.datasets import load_digits

from poslabel_mm.visualization.curves import BLUE, ORANGE

matplotlib.use('Agg')
SIDE = 4  # patches
GREY = '#777777'


def digit() -> np.ndarray:
    """A three, (24, 24), dark on white."""
    pixels = (255 - load_digits().images[3] * 255 / 16).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC))


def box(axes: Axes, x: float, y: float, width: float, text: str, colour: str) -> None:
    """A rounded box, (x, y) the middle of its left side."""
    style = 'round,pad=0.06,rounding_size=0.15'
    axes.add_patch(
        FancyBboxPatch((x, y - 0.42), width, 0.84, style, fc='white', ec=colour, lw=1.8)
    )
    axes.text(x + width / 2, y, text, ha='center', va='center', color=colour)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate('', end, start, arrowprops=dict(arrowstyle='->', color=colour, lw=1.5))


def grid(axes: Axes, x: float, y: float, side: float, filled: int | None = None) -> None:
    """Patches, (x, y) the top left corner; one may be filled."""
    step = side / SIDE
    for k in range(SIDE**2):
        place = x + k % SIDE * step, y + k // SIDE * step
        axes.add_patch(
            Rectangle(place, step, step, fc=ORANGE if k == filled else 'none', ec=GREY, lw=0.7)
        )


def draw() -> Figure:
    """The figure."""
    figure = Figure(figsize=(7.6, 3.3), layout='constrained')
    axes = figure.add_subplot()
    axes.set(xlim=(0, 11.6), ylim=(5.1, 0.1), aspect='equal')
    axes.axis('off')

    axes.imshow(digit(), cmap='gray', vmin=-250, vmax=255, extent=(0.1, 2.3, 3.6, 1.4))
    grid(axes, 0.1, 1.4, 2.2)
    axes.add_patch(Rectangle((1.75, 1.4), 0.55, 0.55, fill=False, ec=ORANGE, lw=2.4))
    axes.text(1.2, 3.95, 'image in patches', ha='center', color=GREY)
    arrow(axes, (2.4, 2.5), (2.95, 2.5), 'k')
    box(axes, 3.0, 2.5, 1.35, 'backbone', 'k')
    arrow(axes, (4.5, 2.5), (5.0, 2.5), 'k')
    for k in range(7):
        y = 1.3 + k * 0.36
        colour = ORANGE if k == 3 else BLUE
        axes.add_patch(Rectangle((5.1, y), 0.3, 0.26, color=colour, alpha=0.9))
    axes.text(5.25, 4.15, 'tokens', ha='center', color=GREY)

    arrow(axes, (5.5, 2.2), (6.35, 1.2), 'k')
    box(axes, 6.4, 1.1, 1.6, 'neck, head', 'k')
    arrow(axes, (8.15, 1.1), (8.75, 1.1), 'k')
    axes.text(8.9, 1.1, 'class: 3', va='center')

    axes.add_patch(
        Rectangle((6.1, 2.25), 5.4, 2.7, fc='#fdf5e6', ec=ORANGE, ls=(0, (4, 3)), lw=1.2)
    )
    arrow(axes, (5.5, 2.8), (6.35, 3.4), ORANGE)
    box(axes, 6.4, 3.4, 1.95, 'position head', ORANGE)
    arrow(axes, (8.5, 3.4), (9.1, 3.4), ORANGE)
    grid(axes, 9.3, 2.5, 1.6, filled=3)
    axes.text(10.1, 4.35, 'its place', ha='center', color=GREY)
    axes.text(6.25, 4.7, 'in training only, then thrown away', va='center', color=ORANGE)
    return figure


def main(path: Path) -> None:
    """Write the figure."""
    with matplotlib.rc_context({'font.size': 10.5}):
        draw().savefig(path, dpi=110, metadata=dict(Software=None))


if __name__ == '__main__':
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix('.png')))
