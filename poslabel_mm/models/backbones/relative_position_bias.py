"""Relative position bias of windows of another size."""

import importlib.metadata

from mmpretrain.models.backbones import beit, swin_transformer
from packaging.version import Version
from torch import Tensor
from torch.nn import functional as F


def resize_bias_table(src_size: int, dst_size: int, table: Tensor, num_heads: int) -> Tensor:
    """Interpolate the bias of all offsets, bicubically.

    Args:
        src_size (int): Offsets along a side, 2 * window - 1.
        dst_size (int): The same of the window that is wanted.
        table (Tensor): Shape (src_size ** 2, num_heads), row by row.
        num_heads (int): Attention heads.

    Returns:
        Tensor: Shape (dst_size ** 2, num_heads), with the dtype of ``table``.
    """
    maps = table.T.reshape(1, num_heads, src_size, src_size)
    maps = F.interpolate(maps.float(), size=(dst_size, dst_size), mode='bicubic')
    return maps.reshape(num_heads, dst_size**2).T.to(table.dtype)


def mend_stock_resizing() -> None:
    """Give the stock Swin and BEiT a resizing that works.

    Theirs calls SciPy's ``interp2d``, which SciPy 1.14 removed: without this
    a checkpoint of another window size ends in a NotImplementedError.
    """
    try:
        if Version(importlib.metadata.version('scipy')) < Version('1.14'):
            return
    except importlib.metadata.PackageNotFoundError:
        pass
    for module in (swin_transformer, beit):
        module.resize_relative_position_bias_table = resize_bias_table


mend_stock_resizing()
