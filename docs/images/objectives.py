"""Draws the figures of docs/objectives.md: `python docs/images/objectives.py [FOLDER]`.

Each shows a handwritten digit in 6x6 patches, and the target of one objective for it.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.datasets import load_digits

from poslabel_mm.visualization.curves import BLUE, ORANGE

matplotlib.use('Agg')
H = W = 6
SIDE = 24  # px of the image, 4 a patch
QUERY, KEY = (1, 4), (4, 1)  # the patches of a pair, row and column
GREY = '#9a9a9a'
STYLE = {'font.size': 9, 'axes.titlesize': 9, 'axes.titlelocation': 'left'}


def digit() -> np.ndarray:
    """A three, (24, 24), dark on white."""
    pixels = (255 - load_digits().images[3] * 255 / 16).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def make_figure(*widths: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels of these widths, in units of an image's."""
    figure = Figure(figsize=(1.9 * sum(widths) + 0.3 * len(widths), 2.25), layout='constrained')
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for panel in axes:
        panel.set(xticks=[], yticks=[])
    return figure, list(axes)


def show_image(axes: Axes, title: str) -> None:
    """The digit, its patch grid in lines; a unit is a patch."""
    axes.imshow(digit(), cmap='gray', vmin=-250, vmax=255, extent=(0, W, H, 0))
    show_lines(axes, H, W)
    axes.set_title(title)


def show_lines(axes: Axes, rows: int, columns: int) -> None:
    for row in range(rows + 1):
        axes.axhline(row, color=GREY, lw=0.6)
    for column in range(columns + 1):
        axes.axvline(column, color=GREY, lw=0.6)
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect='equal')


def frame(axes: Axes, patch: tuple[int, int], colour: str, name: str) -> None:
    row, column = patch
    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, ec=colour, lw=2.2))
    axes.text(column + 0.5, row + 0.5, name, color=colour, ha='center', va='center', weight='bold')


def cell(axes: Axes, row: int, column: int, text: str = '') -> None:
    axes.add_patch(Rectangle((column, row), 1, 1, color=BLUE))
    axes.text(column + 0.5, row + 0.5, text, color='w', ha='center', va='center', size=7)


def show_pair(axes: Axes) -> None:
    show_image(axes, 'two patches')
    frame(axes, QUERY, BLUE, 'i')
    frame(axes, KEY, ORANGE, 'j')


def draw_absolute() -> Figure:
    figure, (image, target) = make_figure(1, 1)
    show_image(image, 'a patch')
    frame(image, QUERY, BLUE, 'i')
    show_lines(target, H, W)
    for k in range(H * W):
        target.text(k % W + 0.5, k // W + 0.5, k, color=GREY, ha='center', va='center', size=6)
    cell(target, *QUERY, str(QUERY[0] * W + QUERY[1]))
    target.set_title(f'its class of {H * W}')
    return figure


def draw_relative() -> Figure:
    figure, (image, target) = make_figure(1, 1)
    show_pair(image)
    rows, columns = 2 * H - 1, 2 * W - 1
    show_lines(target, rows, columns)
    cell(target, QUERY[0] - KEY[0] + H - 1, QUERY[1] - KEY[1] + W - 1)
    target.text(W - 0.5, H - 0.5, '0', color=GREY, ha='center', va='center', size=7)
    target.set_title(f'their class of {rows}·{columns}')
    return figure


def draw_axial() -> Figure:
    figure, (image, rows, columns) = make_figure(1, 0.45, 1)
    show_pair(image)
    show_lines(rows, 2 * H - 1, 1)
    cell(rows, QUERY[0] - KEY[0] + H - 1, 0)
    rows.set_title(f'rows: {2 * H - 1}')
    show_lines(columns, 1, 2 * W - 1)
    cell(columns, 0, QUERY[1] - KEY[1] + W - 1)
    columns.set_title(f'columns: {2 * W - 1} classes')
    return figure


def draw_coordinates() -> Figure:
    figure, (image,) = make_figure(1.25)
    show_image(image, '')
    frame(image, QUERY, BLUE, '')
    y, x = (2 * (k + 0.5) / n - 1 for k, n in zip(QUERY, (H, W)))
    image.plot(QUERY[1] + 0.5, QUERY[0] + 0.5, 'o', color=BLUE)
    image.set_title(f'(y, x) = ({y:.2f}, {x:.2f})'.replace('-', '−'), color=BLUE)
    image.set_xticks([0, W / 2, W], ['−1', '0', '1'])
    image.set_yticks([0, H / 2, H], ['−1', '0', '1'])
    return figure


def draw_offsets() -> Figure:
    figure, (image,) = make_figure(1.25)
    show_pair(image)
    (row_i, column_i), (row_j, column_j) = QUERY, KEY
    arrow = dict(arrowstyle='->', color='k', lw=1.2)
    corner = column_j + 0.5, row_i + 0.5
    image.annotate('', corner, (column_j + 0.5, row_j), arrowprops=arrow)
    image.annotate('', (column_i, row_i + 0.5), corner, arrowprops=arrow)
    image.text(corner[0] + 0.2, 3, f'dy = −{row_j - row_i}/{H}', va='center')
    image.text(2.7, row_i + 0.3, f'dx = {column_i - column_j}/{W}', ha='center')
    image.set_title('from j to i')
    return figure


def draw_soft() -> Figure:
    figure, panels = make_figure(1, 1, 1)
    rows, columns = np.mgrid[:H, :W]
    distance = (rows - QUERY[0]) ** 2 + (columns - QUERY[1]) ** 2
    for panel, sigma in zip(panels, (1.5, 0.7, 0)):
        target = np.exp(-distance / (2 * sigma**2)) if sigma else 1.0 * (distance == 0)
        panel.imshow(target / target.max(), cmap='Blues', extent=(0, W, H, 0))
        show_lines(panel, H, W)
        panel.set_title(f'σ = {sigma}')
    return figure


def draw_views() -> Figure:
    figure, (image,) = make_figure(1.25)
    show_image(image, 'two views of an image')
    for x, y, width, height, colour, name in (
        (0.4, 0.5, 3.6, 3.2, ORANGE, 'j'),
        (2.3, 2.6, 3.1, 2.9, BLUE, 'i'),
    ):
        image.add_patch(Rectangle((x, y), width, height, fill=False, ec=colour, lw=2.2))
        image.text(x + 0.15, y + 0.55, name, color=colour, weight='bold')
    image.annotate(
        '', (3.85, 4.05), (2.2, 2.1), arrowprops=dict(arrowstyle='->', color='k', lw=1.2)
    )
    return figure


def main(folder: Path) -> None:
    """Write all figures into a folder."""
    with matplotlib.rc_context(STYLE):
        for name, draw in (
            ('absolute', draw_absolute),
            ('relative', draw_relative),
            ('axial', draw_axial),
            ('coordinates', draw_coordinates),
            ('offsets', draw_offsets),
            ('soft', draw_soft),
            ('views', draw_views),
        ):
            draw().savefig(folder / f'objective_{name}.png', dpi=110, metadata=dict(Software=None))


if __name__ == '__main__':
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
