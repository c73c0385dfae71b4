"""Pictures as rows of panels: a row a model or a head, a column what is shown of it."""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from poslabel_mm.engine.files import write_atomically
from poslabel_mm.visualization.curves import ORANGE

STYLE = {
    'font.size': 11,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.titlesize': 12,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
}
DPI = 110
HEADING_SIZE, LABEL_SIZE = 13, 10
# In inches: the side of a panel, and what is around it. All places are fixed, so that panels of
# two pictures compare.
SIDE, LARGE_SIDE = 2.3, 3.0
LINE, GAP, BAR = 0.19, 0.16, 0.42


def wrapped(text: str, inches: float, size: float) -> str:
    """Break a text into lines that fit a width.

    Args:
        text (str): The text.
        inches (float): The width.
        size (float): Of the font, in points; a character is taken for 0.54 of it wide.
    """
    return textwrap.fill(text, max(8, int(inches * 72 / (0.54 * size))))


def make_sheet(
    heading: str,
    labels: Sequence[str],
    bars: Sequence[bool],
    side: float = SIDE,
    below: bool = False,
) -> tuple[Figure, np.ndarray]:
    """Make a figure of empty panels.

    Args:
        heading (str): Above all panels.
        labels (Sequence[str]): One a row, at its left; '' for none.
        bars (Sequence[bool]): One a column: whether its panels have a scale beside them.
        side (float): Width and height of a panel, in inches.
        below (bool): Whether there is a line of text below each panel.

    Returns:
        tuple[Figure, np.ndarray]: The figure, and its axes (rows, columns).
    """
    left = 0.12 + (2 * LINE if any(labels) else 0)
    widths = [side + GAP + BAR * bar for bar in bars]
    width = left + sum(widths)
    heading = wrapped(heading, width - 0.3, 1.1 * HEADING_SIZE)
    top = 0.1 + 0.24 * (heading.count('\n') + 1)
    above = 2 * LINE + 0.1  # a title of two lines
    row_height = above + side + (LINE + 0.04 if below else 0.06)
    height = top + len(labels) * row_height + 0.06
    figure = Figure(figsize=(width, height), facecolor='white', dpi=DPI)
    figure.text(
        0.1 / width,
        1 - 0.07 / height,
        heading,
        va='top',
        fontsize=HEADING_SIZE,
        fontweight='bold',
    )
    axes = np.empty((len(labels), len(bars)), dtype=object)
    for row, label in enumerate(labels):
        bottom = height - top - row * row_height - above - side
        for column in range(len(bars)):
            start = left + sum(widths[:column])
            panel = figure.add_axes((start / width, bottom / height, side / width, side / height))
            panel.set(xticks=[], yticks=[])
            for spine in panel.spines.values():
                spine.set(visible=True, color='#BBBBBB')
            axes[row, column] = panel
        axes[row, 0].set_ylabel(wrapped(label, side, LABEL_SIZE), fontsize=LABEL_SIZE)
    return figure, axes


def set_title(axes: Axes, text: str) -> None:
    """Write a title that is no wider than its panel.

    Args:
        axes (Axes): A panel of a sheet.
        text (str): Its title, for two lines.
    """
    inches = axes.get_position(original=True).width * axes.figure.get_figwidth()
    axes.set_title(
        wrapped(text, inches, LABEL_SIZE), fontsize=LABEL_SIZE, fontweight='normal', loc='left'
    )


def render(figure: Figure) -> np.ndarray:
    """Draw a figure.

    Returns:
        np.ndarray: uint8 (height, width, 3), RGB.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format='png', dpi=figure.dpi)
    return np.asarray(Image.open(drawn).convert('RGB'))


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write a picture as a PNG file, whole or not at all.

    Args:
        pixels (np.ndarray): uint8 (height, width, 3), RGB.
        path (Path): Where to.

    Raises:
        UserError: If it cannot be written.
    """
    file = BytesIO()
    Image.fromarray(pixels).save(file, format='png', optimize=True)
    write_atomically(file.getvalue(), path)


def show_image(axes: Axes, image: np.ndarray, grid_shape: tuple[int, int]) -> None:
    """Show an image in units of patches: patch (0, 0) is centred at the origin.

    Args:
        axes (Axes): Where to draw.
        image (np.ndarray): uint8 (height, width, 3), RGB, or (H, W, 3) of one colour a patch.
        grid_shape (tuple[int, int]): The patch grid (H, W).
    """
    H, W = grid_shape
    axes.imshow(image, extent=(-0.5, W - 0.5, H - 0.5, -0.5), interpolation='nearest')


def frame_patches(axes: Axes, places: np.ndarray, width: int, inset: float = 0.0) -> None:
    """Draw orange frames with dark edges, to be seen on any image.

    Args:
        axes (Axes): A panel in units of patches.
        places (np.ndarray): int (k, ), the patches, in the flattened grid.
        width (int): Columns W of the grid.
        inset (float): How far a frame stays within its patch, in patches.
    """
    size = 1 - 2 * inset
    for row, column in zip(*np.divmod(places, width)):
        corner = column - size / 2, row - size / 2
        for color, lw in (('black', 2.4), (ORANGE, 1.4)):
            axes.add_patch(Rectangle(corner, size, size, fill=False, ec=color, lw=lw, zorder=4))


def show_values(
    axes: Axes, values: np.ndarray, low: float, high: float, name: str, decimals: int = 1
) -> None:
    """Show a number for every patch as a colour, with the scale beside it.

    Args:
        axes (Axes): Where to draw.
        values (np.ndarray): (H, W). On small grids the numbers are written out.
        low, high (float): The values of the first and the last colour.
        name (str): What the numbers are, with their unit.
        decimals (int): Of the numbers that are written out.
    """
    H, W = values.shape
    shown = axes.imshow(
        values,
        cmap='cividis',
        vmin=low,
        vmax=high,
        extent=(-0.5, W - 0.5, H - 0.5, -0.5),
        interpolation='nearest',
    )
    bar = axes.figure.colorbar(shown, cax=axes.inset_axes((1.02, 0, 0.045, 1)))
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    set_title(axes, name)
    if max(H, W) > 8:
        return
    for (row, column), value in np.ndenumerate(values):
        dark = value < (low + high) / 2
        value = round(float(value), decimals) + 0.0  # no -0.0
        axes.text(
            column,
            row,
            f'{value:.{decimals}f}',
            ha='center',
            va='center',
            fontsize=8,
            color='white' if dark else 'black',
        )
