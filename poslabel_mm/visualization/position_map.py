"""Predicted positions of an image's patches: as arrows from the true ones, and as a map.

Shape letters: K images shown, N patches, (H, W) their grid.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from poslabel_mm.visualization.curves import BLUE, ORANGE, draw_curves
from poslabel_mm.visualization.sheet import (
    LARGE_SIDE,
    STYLE,
    make_sheet,
    set_title,
    show_image,
    show_values,
)

# On grids with more patches arrows hide the image.
MOST_ARROWS = 100


class Snapshot(NamedTuple):
    """What the position head predicts after an epoch.

    Attributes:
        epoch (int): Counted from 1.
        predicted (np.ndarray): Positions in the flattened grid, (K, N).
        accuracy (float): On all test images, in percent.
    """

    epoch: int
    predicted: np.ndarray
    accuracy: float


class Curves(NamedTuple):
    """Training curves of one config, an entry per seed: (seeds, epochs).

    Attributes:
        label (str): For the legend.
        loss (np.ndarray): Classification loss.
        positions (np.ndarray): Position accuracy in percent; no rows if the config has no
            labels.
    """

    label: str
    loss: np.ndarray
    positions: np.ndarray


def draw_training(
    images: np.ndarray,
    grid_shape: tuple[int, int],
    snapshots: list[Snapshot],
    curves: list[Curves],
    path: Path,
) -> None:
    """Draw predicted positions as training goes on, above the training curves.

    Args:
        images (np.ndarray): Grey images, (K, height, width), K at most 2.
        grid_shape (tuple[int, int]): The patch grid (H, W).
        snapshots (list[Snapshot]): From the first epoch to the last.
        curves (list[Curves]): The baseline first.
        path (Path): The PNG to write.
    """
    with matplotlib.rc_context(STYLE):
        height = 2.5 * len(images)
        figure = Figure(figsize=(10, height + 4.4), facecolor='white')
        top, bottom = figure.subfigures(2, 1, height_ratios=[height + 1.1, 3.3])
        _draw_snapshots(top, height + 1.1, images, grid_shape, snapshots)
        _draw_curves(bottom, curves)
        drawn = BytesIO()
        figure.savefig(drawn, format='png', dpi=110)
    # Few colours: a palette makes the file a third of its size.
    Image.open(drawn).convert('RGB').quantize(128).save(path, optimize=True)


def _draw_snapshots(
    figure,
    height: float,
    images: np.ndarray,
    grid_shape: tuple[int, int],
    snapshots: list[Snapshot],
) -> None:
    figure.suptitle(
        'Where does the ViT place each patch of a test image?',
        x=0.045,
        ha='left',
        fontsize=15,
        fontweight='bold',
    )
    axes = figure.subplots(len(images), len(snapshots), squeeze=False)
    figure.subplots_adjust(
        left=0.045,
        right=0.975,
        top=1 - 0.75 / height,
        bottom=0.42 / height,
        wspace=0.08,
        hspace=0.06,
    )
    for column, snapshot in enumerate(snapshots):
        axes[0, column].set_title(
            f'epoch {snapshot.epoch}: {snapshot.accuracy:.0f} % correct',
            loc='center',
            fontweight='normal',
        )
        for row, image in enumerate(images):
            draw_positions(axes[row, column], image, snapshot.predicted[row], grid_shape)
    figure.legend(
        handles=[
            Line2D([], [], color=BLUE, marker='o', ls='', ms=8, label='correct position'),
            Line2D(
                [],
                [],
                color=ORANGE,
                marker='$\\rightarrow$',
                ls='',
                ms=14,
                label='from the true to the predicted position',
            ),
        ],
        loc='lower left',
        bbox_to_anchor=(0.035, -0.01),
        ncols=2,
        frameon=False,
        handletextpad=0.3,
    )


def _draw_curves(figure, curves: list[Curves]) -> None:
    loss_axes, position_axes = figure.subplots(1, 2, gridspec_kw=dict(width_ratios=[1.25, 1]))
    figure.subplots_adjust(left=0.07, right=0.975, top=0.88, bottom=0.17, wspace=0.2)
    draw_curves(loss_axes, {c.label: c.loss for c in curves})
    loss_axes.set_title('Classification loss in training')
    seeds = len(curves[0].loss)
    loss_axes.legend(
        frameon=False,
        alignment='left',
        title_fontsize=10,
        title=f'mean and range of {seeds} seeds' if seeds > 1 else None,
    )
    draw_curves(position_axes, {c.label: c.positions for c in curves})
    position_axes.set_title('Position accuracy in training, %')
    position_axes.set_ylim(0, 103)


def draw_positions(
    axes: Axes, image: np.ndarray, predicted: np.ndarray, grid_shape: tuple[int, int]
) -> None:
    """Draw an arrow from each patch to its predicted position, a dot where it is correct.

    Args:
        axes (Axes): Where to draw.
        image (np.ndarray): 0 to 255, grey (height, width), shown as dark ink on white, or RGB
            (height, width, 3).
        predicted (np.ndarray): int positions in the flattened grid, (N, ).
        grid_shape (tuple[int, int]): The patch grid (H, W).
    """
    H, W = grid_shape
    # Half as strong as it is, for the arrows to be seen.
    faint = 255 - image // 2 if image.ndim == 2 else 128 + image // 2
    if image.ndim == 2:
        faint = np.repeat(faint[..., None], 3, axis=-1)
    show_image(axes, faint, grid_shape)
    for edge in range(1, W):
        axes.axvline(edge - 0.5, color='white', lw=0.8)
    for edge in range(1, H):
        axes.axhline(edge - 0.5, color='white', lw=0.8)
    y, x = np.divmod(np.arange(H * W), W)
    predicted_y, predicted_x = np.divmod(predicted, W)
    correct = predicted == np.arange(H * W)
    axes.scatter(x[correct], y[correct], s=34, color=BLUE, zorder=3)
    for i in np.flatnonzero(~correct):
        axes.annotate(
            '',
            (predicted_x[i], predicted_y[i]),
            (x[i], y[i]),
            zorder=2,
            arrowprops=dict(
                arrowstyle='-|>',
                color=ORANGE,
                lw=1.3,
                mutation_scale=9,
                shrinkA=0,
                shrinkB=0,
                connectionstyle='arc3,rad=0.2',
            ),
        )  # two patches that swap places show both arrows
    axes.set(xticks=[], yticks=[], xlim=(-0.5, W - 0.5), ylim=(H - 0.5, -0.5))
    for spine in axes.spines.values():
        spine.set(visible=True, color='#BBBBBB')


# ---------------------------------------------------------------------------------------- the map


def place_colours(grid_shape: tuple[int, int]) -> np.ndarray:
    """A colour for every place of a grid.

    Columns go from blue to yellow and rows from light to dark, so that the colour-blind can
    follow them, and neighbours differ visibly on grids of up to 24x24.

    Args:
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        np.ndarray: uint8 (H, W, 3), RGB.
    """
    H, W = grid_shape
    # Between four corners in Ottosson's Oklab: lightness, green to red, blue to yellow.
    light = np.linspace([0.803, -0.055, -0.096], [0.939, -0.046, 0.178], W)
    dark = np.linspace([0.313, -0.003, -0.184], [0.41, 0.045, 0.083], W)
    lab = np.linspace(light, dark, H)  # [H, W, 3]
    from_lab = [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
    from_cones = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    linear = (lab @ np.transpose(from_lab)) ** 3 @ np.transpose(from_cones)
    linear = linear.clip(0, 1)
    srgb = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * srgb).round().astype(np.uint8)


class MapRow(NamedTuple):
    """What one head predicts for one image, a row of the picture.

    Attributes:
        label (str): The model, and its head where it has several.
        predicted (np.ndarray): int (N, ), the predicted place of every patch, in the order of
            their true places.
        errors (np.ndarray): (N, ), how far the prediction is off, in patches.
    """

    label: str
    predicted: np.ndarray
    errors: np.ndarray


def draw_map(
    name: str, image: np.ndarray, rows: Sequence[MapRow], grid_shape: tuple[int, int]
) -> Figure:
    """Draw where the patches of an image are predicted to be, and how far off that is.

    Args:
        name (str): The image's.
        image (np.ndarray): uint8 (height, width, 3), RGB.
        rows (Sequence[MapRow]): One a model and head.
        grid_shape (tuple[int, int]): The patch grid (H, W).

    Returns:
        Figure: The picture.
    """
    H, W = grid_shape
    colours = place_colours(grid_shape)
    farthest = max(1.0, *(float(row.errors.max()) for row in rows))
    figure, axes = make_sheet(
        f'Predicted places of the patches of {name}',
        [row.label for row in rows],
        bars=[False, False, False, True],
    )
    for row, panels in zip(rows, axes):
        right = int((row.predicted == np.arange(H * W)).sum())
        if H * W <= MOST_ARROWS:
            draw_positions(panels[0], image, row.predicted, grid_shape)
            set_title(panels[0], f'{right} of {H * W} right; arrows: from true to predicted')
        else:
            show_image(panels[0], image, grid_shape)
            set_title(panels[0], f'{right} of {H * W} right')
        show_image(panels[1], colours, grid_shape)
        set_title(panels[1], 'true places')
        show_image(panels[2], colours.reshape(-1, 3)[row.predicted].reshape(H, W, 3), grid_shape)
        set_title(panels[2], 'predicted places, in the colours of the true ones')
        show_values(
            panels[3],
            row.errors.reshape(H, W),
            0,
            farthest,
            f'error in patches, {row.errors.mean():.2f} on average',
        )
    return figure


class CellErrors(NamedTuple):
    """The errors of one head by the true place, a row of the picture.

    Attributes:
        label (str): The model, and its head where it has several.
        distance (np.ndarray): (H, W), the mean error in patches.
        right (np.ndarray): (H, W), the share of patches whose place is predicted, from 0 to 1.
    """

    label: str
    distance: np.ndarray
    right: np.ndarray


def draw_cell_errors(images: int, rows: Sequence[CellErrors]) -> Figure:
    """Draw where in the grid positions are known, and where not.

    Args:
        images (int): How many the errors are averaged over.
        rows (Sequence[CellErrors]): One a model and head.

    Returns:
        Figure: The picture.
    """
    figure, axes = make_sheet(
        f'Errors by the true place, over {images:,} image{"s" * (images > 1)}',
        [row.label for row in rows],
        bars=[True, True],
        side=LARGE_SIDE,
    )
    farthest = max(1.0, *(float(row.distance.max()) for row in rows))
    for row, (left, right) in zip(rows, axes):
        show_values(
            left,
            row.distance,
            0,
            farthest,
            f'error in patches, {row.distance.mean():.2f} on average',
        )
        show_values(
            right,
            100 * row.right,
            0,
            100,
            f'right places in %, {100 * row.right.mean():.1f} on average',
            decimals=0,
        )
    return figure
