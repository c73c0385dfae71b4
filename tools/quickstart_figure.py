"""The quickstart's picture. Plain arrays in, a PNG out.

Shape letters: E epochs shown, K images shown, N patches, (H, W) their grid.
"""
from io import BytesIO
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from PIL import Image  # noqa: E402

# Okabe and Ito's palette, for eyes of every kind.
BLUE, ORANGE, GREY = '#0072B2', '#E69F00', '#555555'
CURVE_COLORS = [GREY, BLUE, '#CC79A7', '#009E73']


class Snapshot(NamedTuple):
    """What the position head says after an epoch.

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
        positions (np.ndarray): Position accuracy in percent; no rows if the
            config has no labels.
    """
    label: str
    loss: np.ndarray
    positions: np.ndarray


def draw(images: np.ndarray, grid_shape: Tuple[int, int],
         snapshots: List[Snapshot], curves: List[Curves], path: Path) -> None:
    """Draw the predicted positions above the training curves.

    Args:
        images (np.ndarray): Grey images, (K, height, width), K at most 2.
        grid_shape (tuple[int, int]): The patch grid (H, W).
        snapshots (list[Snapshot]): From the first epoch to the last.
        curves (list[Curves]): The baseline first.
        path (Path): The PNG to write.
    """
    with plt.rc_context({
            'font.size': 11, 'axes.spines.top': False,
            'axes.spines.right': False, 'axes.titlesize': 12,
            'axes.titleweight': 'bold', 'axes.titlelocation': 'left'
    }):
        rows, columns = len(images), len(snapshots)
        figure = plt.figure(figsize=(10, 2.5 * rows + 4.4), facecolor='white')
        top, bottom = figure.subfigures(
            2, 1, height_ratios=[2.5 * rows + 1.1, 3.3])
        top.suptitle(
            'Where does the ViT say each patch of a test image is?',
            x=0.045, ha='left', fontsize=15, fontweight='bold')
        axes = top.subplots(rows, columns, squeeze=False)
        top.subplots_adjust(
            left=0.045, right=0.975, top=1 - 0.75 / (2.5 * rows + 1.1),
            bottom=0.42 / (2.5 * rows + 1.1), wspace=0.08, hspace=0.06)
        for column, snapshot in enumerate(snapshots):
            axes[0, column].set_title(
                f'epoch {snapshot.epoch}: {snapshot.accuracy:.0f} % in place',
                loc='center', fontweight='normal')
            for row, image in enumerate(images):
                draw_positions(axes[row, column], image,
                               snapshot.predicted[row], grid_shape)
        top.legend(
            handles=[
                Line2D([], [], color=BLUE, marker='o', ls='', ms=8,
                       label='said to be where it is'),
                Line2D([], [], color=ORANGE, marker='$\\rightarrow$', ls='',
                       ms=14, label='from where it is to where it is said '
                       'to be'),
            ],
            loc='lower left', bbox_to_anchor=(0.035, -0.01), ncols=2,
            frameon=False, handletextpad=0.3)
        loss_axes, position_axes = bottom.subplots(
            1, 2, gridspec_kw=dict(width_ratios=[1.25, 1]))
        bottom.subplots_adjust(
            left=0.07, right=0.975, top=0.88, bottom=0.17, wspace=0.2)
        draw_curves(loss_axes, {c.label: c.loss for c in curves})
        loss_axes.set_title('Classification loss in training')
        seeds = len(curves[0].loss)
        loss_axes.legend(
            frameon=False, alignment='left', title_fontsize=10,
            title=f'mean and range of {seeds} seeds' if seeds > 1 else None)
        draw_curves(position_axes, {c.label: c.positions for c in curves})
        position_axes.set_title('Position accuracy in training, %')
        position_axes.set_ylim(0, 103)
        drawn = BytesIO()
        figure.savefig(drawn, dpi=110)
        plt.close(figure)
        # Few colours: a palette makes the file a third of its size.
        Image.open(drawn).convert('RGB').quantize(128).save(path, optimize=True)


def draw_positions(axes, image: np.ndarray, predicted: np.ndarray,
                   grid_shape: Tuple[int, int]) -> None:
    """Draw an arrow from each patch to its predicted place, a dot if right.

    Args:
        axes (matplotlib.axes.Axes): Where to draw.
        image (np.ndarray): Grey image, (height, width).
        predicted (np.ndarray): int positions in the flattened grid, (N, ).
        grid_shape (tuple[int, int]): The patch grid (H, W).
    """
    H, W = grid_shape
    # In units of patches, with patch (0, 0) centred at the origin.
    axes.imshow(
        image, cmap='gray_r', vmin=0, vmax=2 * 255,
        extent=(-0.5, W - 0.5, H - 0.5, -0.5), interpolation='nearest')
    for edge in range(1, W):
        axes.axvline(edge - 0.5, color='white', lw=0.8)
    for edge in range(1, H):
        axes.axhline(edge - 0.5, color='white', lw=0.8)
    y, x = np.divmod(np.arange(H * W), W)
    said_y, said_x = np.divmod(predicted, W)
    right = predicted == np.arange(H * W)
    axes.scatter(x[right], y[right], s=34, color=BLUE, zorder=3)
    for i in np.flatnonzero(~right):
        axes.annotate(
            '', (said_x[i], said_y[i]), (x[i], y[i]), zorder=2,
            arrowprops=dict(
                arrowstyle='-|>', color=ORANGE, lw=1.3, mutation_scale=9,
                shrinkA=0, shrinkB=0,
                connectionstyle='arc3,rad=0.2'))  # for there and back to differ
    axes.set(xticks=[], yticks=[], xlim=(-0.5, W - 0.5), ylim=(H - 0.5, -0.5))
    for spine in axes.spines.values():
        spine.set(visible=True, color='#BBBBBB')


def draw_curves(axes, curves: Dict[str, np.ndarray]) -> None:
    """Draw the mean over the seeds, with the seeds' range as a band."""
    for (label, values), color in zip(curves.items(), CURVE_COLORS):
        if not len(values):
            continue
        epochs = np.arange(1, values.shape[1] + 1)
        axes.plot(epochs, values.mean(0), color=color, lw=2.2, label=label)
        axes.fill_between(
            epochs, values.min(0), values.max(0), color=color, alpha=0.18,
            lw=0)
    axes.set_xlabel('epoch')
    axes.set_xlim(left=1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis='y', color='#DDDDDD', lw=0.8)
    axes.set_axisbelow(True)
