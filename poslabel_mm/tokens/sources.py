"""The forms in which modules give their patch tokens and their grid, one reader a form.

Shape letters: B batch, n tokens of an image, C channels, (H, W) patch grid. Class and distillation
tokens, where there are any, come before the H·W patch tokens.

A token reader is called with what a module returns (or is given) and with the grid that its
:class:`TokenSource` names, None where it names none. It returns the tokens (B, n, C) and their
grid (H, W), or None where it is handed another form than its own.

A grid reader is called as a forward hook is, with a module, its arguments and its output, and
returns the grid (H, W).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from poslabel_mm.tokens.labels import GridShape

TokenReader = Callable[[Any, GridShape | None], tuple[Tensor, GridShape] | None]
GridReader = Callable[[nn.Module, tuple, Any], GridShape]


def _last(value):
    """The last of several outputs, or the only one; a single argument comes as a tuple too."""
    if not isinstance(value, (tuple, list)):
        return value
    return value[-1] if value else None


def _has_dims(value, dims: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == dims


# -------------------------------------------------------------------------------- token readers


def feature_map(value, grid_shape=None):
    """A feature map (B, C, H, W), or the last of several."""
    value = _last(value)
    if _has_dims(value, 4):
        return channels_last_map(value.permute(0, 2, 3, 1))


def channels_last_map(value, grid_shape=None):
    """A feature map (B, H, W, C), or the last of several."""
    value = _last(value)
    if _has_dims(value, 4):
        return value.flatten(1, 2), tuple(value.shape[1:3])


def tokens_on_grid(value, grid_shape):
    """Tokens (B, n, C) of a grid that another module shows or that is fixed."""
    value = _last(value)
    if _has_dims(value, 3) and grid_shape is not None:
        return value, grid_shape


def tokens_with_grid(value, grid_shape=None):
    """Tokens (B, n, C) and their grid (H, W).

    The stages of MMDetection's and MMSegmentation's Swin return two such pairs, of which the
    second one is before merging.
    """
    if isinstance(value, (tuple, list)) and len(value) in (2, 4):
        return tokens_on_grid(*value[-2:])


def map_or_tokens(value, grid_shape):
    """A feature map (B, C, H, W) or tokens (B, n, C), for a family that has models of both."""
    return feature_map(value) or tokens_on_grid(value, grid_shape)


def channels_last_map_or_tokens(value, grid_shape):
    """A feature map (B, H, W, C) or tokens (B, n, C), for a library that has models of both."""
    return channels_last_map(value) or tokens_on_grid(value, grid_shape)


# --------------------------------------------------------------------------------- grid readers


def grid_beside_patches(_module, _inputs, output) -> GridShape:
    """A patch embedding's that returns a pair of patches and their grid (H, W)."""
    return tuple(output[1])


def grid_of_output_map(_module, _inputs, output) -> GridShape:
    """A convolution's that returns a feature map (B, C, H, W)."""
    return tuple(output.shape[2:])


def grid_of_input_map(_module, inputs, _output) -> GridShape:
    """A module's that flattens a feature map (B, C, H, W)."""
    return tuple(inputs[0].shape[2:])


def timm_dynamic_grid(module, inputs, _output) -> GridShape:
    """A timm patch embedding's, of images (B, 3, height, width) of any size."""
    return tuple(module.dynamic_feat_size(inputs[0].shape[2:]))


# -------------------------------------------------------------------------------------- sources


class GridSource(NamedTuple):
    """A place in a backbone that shows the patch grid of its input.

    Attributes:
        module (str): Name of the submodule.
        read (callable): The grid reader of its form.
    """

    module: str
    read: GridReader = grid_beside_patches


class TokenSource(NamedTuple):
    """A place in a backbone that shows its patch tokens.

    Attributes:
        tokens (str): Name of the submodule that has the tokens; '' for the
            backbone itself.
        read (callable): The token reader of its form.
        grid (GridSource | tuple[int, int], optional): Where the patch grid is
            shown, or the grid (H, W) where it is fixed. None where it comes
            with the tokens.
        before (bool): Whether the submodule is given the tokens, rather than
            returning them.
        normalise (bool): Whether the tokens come before the norm that the
            stock classifier applies to them, or to their mean.
        num_prefix (int, optional): How many tokens precede the patches'. None
            means that any number may, and is left out.
    """

    tokens: str = ''
    read: TokenReader = feature_map
    grid: GridSource | GridShape | None = None
    before: bool = False
    normalise: bool = False
    num_prefix: int | None = None
