"""The pixels of a drawn figure, at places of its axes."""

import numpy as np
from matplotlib.axes import Axes

from poslabel_mm.visualization.sheet import render


def pixel(axes: Axes, x: float, y: float, pixels: np.ndarray | None = None) -> list[int]:
    """The colour at a place of a panel, (R, G, B).

    Args:
        axes (Axes): The panel.
        x, y (float): In its data coordinates.
        pixels (np.ndarray, optional): The figure as it was rendered, if it was.
    """
    if pixels is None:
        pixels = render(axes.figure)
    right, up = axes.transData.transform((x, y))
    return pixels[int(len(pixels) - up), int(right)].tolist()
