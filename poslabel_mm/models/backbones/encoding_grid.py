"""The patch grid of a positional encoding, saved beside it in a checkpoint.

An encoding is saved as a row of N places, from which H x W cannot be told. The
grid goes into the state dict's metadata, where torch keeps the version of every
module: it adds no key, and a model that does not know it passes over it.

Shape letters: H, W the patch grid, N = H·W; E extra tokens (class tokens), which
come first and have no place in the grid; C channels.
"""

import math

from mmengine.logging import MMLogger
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.masked import built_grid, tells_grid

# Also read in poslabel_mm.stack.checkpoint_file.
METADATA_KEY = 'grid_shapes'


def keep_grid(
    module: nn.Module,
    name: str = 'pos_embed',
    grid_shape: GridShape | None = None,
    checkpoint_grid: GridShape | None = None,
) -> None:
    """Have a module save the grid of its encoding, and fit those it loads.

    An encoding of another grid is interpolated as MMPretrain does it: by the
    module's ``interpolate_mode`` (bicubic if it has none) between the centres
    of the patches; beyond the outermost centres it stays constant. One that
    does not tell its grid is taken for a square's if it can be one.

    Args:
        module (nn.Module): Any module; one without such an encoding stays as
            it is, and so does one that keeps its grid already.
        name (str): Of the parameter of shape (1, E + N, C).
        grid_shape (tuple[int, int], optional): The grid (H, W). By default the
            one that the module, a backbone, was built for.
        checkpoint_grid (tuple[int, int], optional): The grid of encodings in
            checkpoints that do not tell theirs.
    """
    encoding = getattr(module, name, None)
    if not isinstance(encoding, Tensor) or encoding.dim() != 3:
        return
    if grid_shape is None and not tells_grid(module):
        return
    for hook in module._state_dict_hooks.values():
        kept = getattr(hook, '__self__', None)
        if isinstance(kept, EncodingGrid) and kept.name == name:
            return
    kept = EncodingGrid(name, grid_shape or built_grid(module), checkpoint_grid)
    # Not the public names: those want to write on the hook.
    module._register_state_dict_hook(kept.save)
    handle = module._register_load_state_dict_pre_hook(kept.fit, with_module=True)
    # Before MMPretrain's own, which takes every encoding for a square's, and
    # has nothing left to do then.
    module._load_state_dict_pre_hooks.move_to_end(handle.id, last=False)


# Bound methods of an object, not closures: a deep copy of the model (EMA) must
# end up with its own.


class EncodingGrid:
    """State-dict hooks of a module with an encoding; see :func:`keep_grid`.

    Args:
        name (str): Of the encoding.
        grid_shape (tuple[int, int]): Its grid (H, W).
        checkpoint_grid (tuple[int, int], optional): The grid of encodings in
            checkpoints that do not tell theirs.
    """

    def __init__(
        self, name: str, grid_shape: GridShape, checkpoint_grid: GridShape | None
    ) -> None:
        self.name, self.grid_shape = name, tuple(map(int, grid_shape))
        self.checkpoint_grid = checkpoint_grid

    def save(self, _module, state_dict, prefix, local_metadata) -> None:
        """After a module has written itself into a state dict."""
        if prefix + self.name in state_dict:
            local_metadata.setdefault(METADATA_KEY, {})[self.name] = self.grid_shape

    def fit(self, module, state_dict, prefix, local_metadata, *_) -> None:
        """Before a module reads itself from a state dict.

        Raises:
            UserError: If the grid of the encoding is unknown and cannot be
                guessed safely, or has other extra tokens than the module's.
        """
        encoding, own = state_dict.get(prefix + self.name), getattr(module, self.name)
        if encoding is None or encoding.dim() != 3 or encoding.shape[::2] != own.shape[::2]:
            return  # of another model: torch says so
        extra = own.shape[1] - math.prod(self.grid_shape)
        # A model without class token takes an encoding with one.
        extras = (extra,) if extra else (0, 1)
        grid = getattr(encoding, 'grid_shape', None) or local_metadata.get(METADATA_KEY, {}).get(
            self.name
        )
        if grid is None:
            grid, found = self._grid_not_told(module, encoding, extras)
        else:
            found = encoding.shape[1] - math.prod(grid)
            if found not in extras:
                raise UserError(
                    f"the checkpoint's {self.name} has {found} class tokens "
                    f'beside its {_by(grid)} patches, and '
                    f'{type(module).__name__} has {extra}'
                )
        encoding = encoding[:, found - extra :]
        if tuple(grid) != self.grid_shape:
            MMLogger.get_current_instance().info(
                f'Resize {prefix}{self.name} from {_by(grid)} to {_by(self.grid_shape)} patches.'
            )
            encoding = resize_pos_embed(
                encoding,
                grid,
                self.grid_shape,
                getattr(module, 'interpolate_mode', 'bicubic'),
                extra,
            )
        state_dict[prefix + self.name] = encoding

    def _grid_not_told(
        self, module: nn.Module, encoding: Tensor, extras: tuple[int, ...]
    ) -> tuple[GridShape, int]:
        """The most likely grid of an encoding, and its extra tokens."""
        length = encoding.shape[1]
        if self.checkpoint_grid is not None:
            extra = length - math.prod(self.checkpoint_grid)
            if extra in extras:
                return self.checkpoint_grid, extra
            raise UserError(
                f"the checkpoint's {self.name} has {length - extras[0]} "
                f'patches, which are not {_by(self.checkpoint_grid)}: set '
                'model.backbone.checkpoint_grid to (rows,columns)'
            )
        for extra in extras:
            side = math.isqrt(length - extra)
            if side**2 == length - extra:
                break
        else:
            raise UserError(
                f"the checkpoint's {self.name} does not tell the grid of its "
                f'{length - extras[0]} patches, and {length - extras[0]} is not a square number: '
                f'{_way_out(module)}'
            )
        H, W = self.grid_shape
        if H != W and side**2 == H * W:
            raise UserError(
                f"the checkpoint's {self.name} does not tell whether its "
                f"{H * W} patches are {side}x{side} or the model's {H}x{W}: "
                f'{_way_out(module)}'
            )
        return (side, side), extra


def _way_out(module: nn.Module) -> str:
    option = '--cfg-options "model.backbone.checkpoint_grid=(rows,columns)"'
    if not hasattr(module, 'checkpoint_grid'):
        ours = _TAKES_GRID.get(type(module).__name__)
        if ours is None and not hasattr(module, 'decoder_pos_embed'):
            return (
                f'{type(module).__name__} starts from checkpoints of '
                'square images, or of poslabel_mm'
            )
        if ours is not None:
            option += f' model.backbone.type=poslabel_mm.{ours}'
    return f'name it with {option}'


# In place of the stock backbones.
_TAKES_GRID = dict(
    VisionTransformer='PositionalVisionTransformer',
    MAEViT='PositionalMAEViT',
    MAEHiViT='PositionalMAEHiViT',
    MoCoV3ViT='PositionalMoCoV3ViT',
)


def _by(grid: GridShape) -> str:
    return f'{grid[0]}x{grid[1]}'
