"""A network as a program of ``torch.export`` for any batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmpretrain.models.utils import ShiftWindowMSA
from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.interop.network import Source

# Another than those that programs are compared at.
TRACED_BATCH = 3


def traced(source: Source) -> torch.export.ExportedProgram:
    """Trace a network, with the batch left open.

    Args:
        source (Source): The model.

    Raises:
        UserError: If it cannot be traced so.
    """
    dynamic = dict(images={0: torch.export.Dim('batch')})
    try:
        with _windows_of_any_batch(), torch.no_grad():
            return torch.export.export(
                source.network, (source.images(TRACED_BATCH),), dynamic_shapes=dynamic
            )
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f'not exported: torch.export cannot trace {type(source.model.backbone).__name__} for '
            f'any batch: {reason}'
        ) from error


@contextmanager
def _windows_of_any_batch() -> Iterator[None]:
    """A context in which Swin's windows are put together again without a float.

    Cause: MMPretrain computes the batch as ``int(windows.shape[0] / (H * W / ...))``, which fixes
    it to that of the tracing. Remove when it divides whole numbers.
    """
    stock = ShiftWindowMSA.window_reverse
    ShiftWindowMSA.window_reverse = staticmethod(_window_reverse)
    try:
        yield
    finally:
        ShiftWindowMSA.window_reverse = staticmethod(stock)


def _window_reverse(windows: Tensor, H: int, W: int, window_size: int) -> Tensor:
    """The stock function of that name: windows (B·n, w, w, C) to a map (B, H, W, C)."""
    w, C = window_size, windows.shape[-1]
    B = windows.shape[0] * w * w // (H * W)
    return (
        windows.view(B, H // w, W // w, w, w, C)
        .permute(0, 1, 3, 2, 4, 5)
        .contiguous()
        .view(B, H, W, C)
    )
