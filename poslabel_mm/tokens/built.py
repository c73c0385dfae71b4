"""The patch tokens that a backbone will give, where it tells when it is built.

A backbone that is not listed here tells nothing: its tokens are looked at when there are some.
"""

from collections.abc import Callable
from operator import mul
from typing import NamedTuple

from torch import nn

from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.masked import built_grid, built_patch_size, tells_grid
from poslabel_mm.tokens.wrappers import by_class, unwrapped


class BuiltTokens(NamedTuple):
    """What is known of a backbone's patch tokens.

    Attributes:
        grid_shape (tuple[int, int], optional): Their grid (H, W) for images of the size that the
            backbone was built for.
        channels (int, optional): Their width C.
        stride (tuple[int, int], optional): How many pixels, down and across, a token is from the
            next one.
    """

    grid_shape: GridShape | None = None
    channels: int | None = None
    stride: tuple[int, int] | None = None


def built_tokens(backbone: nn.Module, stage: int | None = None) -> BuiltTokens:
    """What a backbone tells of its tokens without being run.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.
        stage (int, optional): The stage whose tokens are read, counted from 0. Defaults to None,
            the last tokens.

    Returns:
        BuiltTokens: Grid, width and stride, each None where it is not known.
    """
    backbone = unwrapped(backbone)
    tell = by_class(backbone, FAMILIES)
    return BuiltTokens() if tell is None else tell(backbone, stage)


def is_of_any_size(backbone: nn.Module) -> bool:
    """Whether nothing in a backbone has the size of the images that it was built for.

    The size alone that a config sets says what its images are then, not the default.
    """
    backbone = unwrapped(backbone)
    return by_class(backbone, FAMILIES) is _swin and not hasattr(backbone, 'absolute_pos_embed')


def _plain(backbone: nn.Module, _stage: int | None) -> BuiltTokens:
    if not tells_grid(backbone):
        return BuiltTokens(channels=getattr(backbone, 'embed_dims', None))
    return BuiltTokens(
        built_grid(backbone), getattr(backbone, 'embed_dims', None), built_patch_size(backbone)
    )


def _hivit(backbone: nn.Module, _stage: int | None) -> BuiltTokens:
    return BuiltTokens(built_grid(backbone), backbone.num_features, built_patch_size(backbone))


def _swin(backbone: nn.Module, stage: int | None) -> BuiltTokens:
    if not tells_grid(backbone):
        return BuiltTokens()  # of another library
    if stage is None:
        # The last output; they come in the order of the stages.
        stage = max(backbone.out_indices)
        if backbone.out_after_downsample or not 0 <= stage < len(backbone.stages):
            return BuiltTokens()
    grid, stride = built_grid(backbone), built_patch_size(backbone)
    for before in backbone.stages[:stage]:
        if before.downsample is not None:
            grid = _merged(grid, before.downsample)
            stride = stride and tuple(map(mul, stride, before.downsample.sampler.stride))
    return BuiltTokens(grid, backbone.stages[stage].embed_dims, stride)


def _merged(grid: GridShape, merging: nn.Module) -> GridShape:
    """The grid that one of MMPretrain's `PatchMerging` leaves."""
    # A merging that rounds up pads the map first.
    padding = merging.adaptive_padding
    pads = padding.get_pad_shape(grid) if padding else (0, 0)
    unfold = merging.sampler
    return tuple(
        (side + pad + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, padding, dilation, kernel, stride in zip(
            grid, pads, unfold.padding, unfold.dilation, unfold.kernel_size, unfold.stride
        )
    )


FAMILIES: dict[str, Callable[[nn.Module, int | None], BuiltTokens]] = {
    'VisionTransformer': _plain,
    'BEiTViT': _plain,
    'HiViT': _hivit,
    'SwinTransformer': _swin,
}
