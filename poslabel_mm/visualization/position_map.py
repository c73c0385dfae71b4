"""Predicted positions of an image's patches, as arrows from the true ones.

Shape letters: K images shown, N patches, (H, W) their grid.
"""

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

STYLE = {
    'font.size': 11,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.titlesize': 12,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
}


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
        image (np.ndarray): Grey image, (height, width), 0 to 255.
        predicted (np.ndarray): int positions in the flattened grid, (N, ).
        grid_shape (tuple[int, int]): The patch grid (H, W).
    """
    H, W = grid_shape
    # In units of patches, with patch (0, 0) centred at the origin.
    axes.imshow(
        image,
        cmap='gray_r',
        vmin=0,
        vmax=2 * 255,
        extent=(-0.5, W - 0.5, H - 0.5, -0.5),
        interpolation='nearest',
    )
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
