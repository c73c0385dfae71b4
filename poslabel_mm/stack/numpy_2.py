"""Parts of MMCV and MMPretrain that need what numpy 1 did.

MMCV's ``adjust_hue`` relies on a negative Python number wrapping around in ``uint8``, which is an
OverflowError since numpy 2; the metrics of retrieval call ``numpy.in1d``, which numpy 2.4 has not.
Both are mended in OneDL's releases. Remove with the openmmlab stack.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PHOTOMETRIC = 'mmcv.image.photometric'
RETRIEVAL = 'mmpretrain.evaluation.metrics.retrieval'


class _Shift(float):
    """A shift of hue that, times 255, is a whole number below 256, as ``uint8`` wraps around."""

    def __mul__(self, other: float) -> int:
        return int(float(self) * other) % 256


@contextmanager
def wrapping_hue() -> Iterator[None]:
    """Have ``adjust_hue`` shift by negative amounts, as it does with numpy 1."""
    yield
    stock = sys.modules[PHOTOMETRIC].adjust_hue
    if hasattr(stock, 'wraps_around'):
        return

    @functools.wraps(stock)
    def adjust_hue(img: np.ndarray, hue_factor: float, *args, **kwargs) -> np.ndarray:
        return stock(img, _Shift(hue_factor), *args, **kwargs)

    adjust_hue.wraps_around = True
    # The packages above have it under the same name where they have been imported already.
    for name in PHOTOMETRIC, 'mmcv.image', 'mmcv':
        module = sys.modules[name]
        if getattr(module, 'adjust_hue', None) is stock:
            module.adjust_hue = adjust_hue


class _WithIn1d:
    """numpy with the function ``in1d``."""

    def __getattr__(self, name: str):
        return getattr(np, name)

    @staticmethod
    def in1d(ar1: np.ndarray, ar2: np.ndarray, **kwargs) -> np.ndarray:
        return np.isin(np.ravel(ar1), ar2, **kwargs)


@contextmanager
def retrieval_with_in1d() -> Iterator[None]:
    """Have MMPretrain's metrics of retrieval find ``numpy.in1d``."""
    yield
    if not hasattr(np, 'in1d'):
        sys.modules[RETRIEVAL].np = _WithIn1d()
