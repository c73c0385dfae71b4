"""Rotary positional encoding (RoPE) of a plain transformer's patches.

Shape letters: B batch, h attention heads of d channels, E class tokens, which come first, and
N = H·W patches.
"""

from functools import partial
from weakref import WeakSet

import torch
from mmpretrain.models.utils import RotaryEmbeddingFast
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.models.recomputation import in_backward
from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.masked import built_grid


class RotaryEmbedding(RotaryEmbeddingFast):
    """MMPretrain's rotary embedding, for queries and keys that begin with class tokens.

    The first half of a head's channels turns with the row of a patch, the second half with its
    column, as parts of the grid's height and width: a grid of another size is laid over the same
    angles. Class tokens are not turned. Nothing is saved in a checkpoint.

    Args:
        *args: The stock ``RotaryEmbeddingFast``'s arguments.
        num_extra_tokens (int): E.
        **kwargs: The stock ``RotaryEmbeddingFast``'s arguments.
    """

    def __init__(self, *args, num_extra_tokens: int, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.num_extra_tokens = num_extra_tokens
        self.grid = self.patch_resolution
        # Activation checkpointing repeats the attention of a pass after passes of other images.
        # What it begins with is a tensor of that pass: an input of a layer or of its attention.
        self._grids = _GridsOfTensors()
        # Where that tells nothing: the passes that may be repeated.
        self._passes = _OpenPasses()
        # Whether, between two passes, those that may be repeated leave the grid in doubt. A layer
        # that is compiled by itself runs no hook where it is repeated, but is compiled anew
        # because this has changed.
        self._in_doubt = False
        # The last step of a repeated pass, and its grid.
        self._repeated: tuple[int, GridShape] | None = None

    def register_buffer(self, name: str, tensor: Tensor, persistent: bool = True) -> None:
        # The stock tables change their shape with the grid: as buffers they would be saved, and
        # could be neither averaged (EMA) nor broadcast (DDP).
        vars(self)[name] = tensor

    def compute_position_embedding(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles, each of shape (N, d)."""
        # Channels 2i and 2i + 1 are turned together, so they need one frequency. The stock tables
        # repeat an axis' frequencies as a block, (f1, f2, f1, f2): no rotation, and scores that
        # do not depend on the offset of two patches alone.
        return tuple(
            table.unflatten(-1, (2, 2, -1)).transpose(-1, -2).flatten(-3)
            for table in super().compute_position_embedding()
        )

    def see_grid(self, _patch_embed: nn.Module, _inputs: tuple, output: tuple) -> None:
        """Hook of the patch embedding, which returns patches and their grid (H, W)."""
        self.grid = tuple(map(int, output[1]))
        self._in_doubt = False
        if torch.compiler.is_compiling():
            return
        # Activation checkpointing of the whole backbone repeats this step, too.
        self._repeated = (-1, self.grid) if in_backward() else None
        self._passes.begin(self.grid)
        self._passes.follow(output[0])
        self._grids.forget_freed()

    def see_end(self, *_) -> None:
        """Hook of the backbone, after a pass."""
        if not torch.compiler.is_compiling():
            H, W = self.grid
            self._in_doubt = len(self._passes.grids(H * W)) > 1

    def see_input(self, step: int, _module: nn.Module, inputs: tuple) -> None:
        """Hook before a module that gets the input of a layer or of its attention.

        Args:
            step (int): The number of the module among those of a pass, counted from 0.

        Raises:
            UserError: If activation checkpointing repeats a pass whose grid cannot be told.
        """
        if torch.compiler.is_compiling():
            return
        tokens = inputs[0]
        if not in_backward():
            self._passes.follow(tokens)
            self._grids.note(tokens, self.grid)
            return
        grid = self._grids.of(tokens)
        if grid is None and self._repeated is not None and self._repeated[0] == step - 1:
            grid = self._repeated[1]
        if grid is None:
            grid = self._only_grid(tokens.shape[1] - self.num_extra_tokens)
        self._repeated = step, grid
        self._grids.note(tokens, grid)

    @torch.compiler.disable
    def _only_grid(self, N: int) -> GridShape:
        """The grid of a pass, or of a repeated one by the passes that may be repeated alone."""
        if not in_backward():
            return self.grid
        grids = self._passes.grids(N)
        if len(grids) > 1:
            names = ' and '.join(f'{H}x{W}' for H, W in sorted(grids))
            raise UserError(
                f"pos_encoding='rope' met patch grids of {names}, {N} patches each, and "
                'activation checkpointing cannot tell whose attention it repeats: checkpoint '
                'the backbone.layers one by one, leave them uncompiled and their inputs where '
                'they are in memory, or run the backward pass of one grid before the other is fed'
            )
        return grids.pop() if grids else self.grid

    def forward(self, x: Tensor) -> Tensor:
        """Turn queries or keys by the places of their patches.

        Args:
            x (Tensor): Shape (B, h, E + N, d).

        Returns:
            Tensor: Of the same shape and dtype.
        """
        E = self.num_extra_tokens
        if self.freqs_cos.device != x.device:  # also where the model was built without memory
            tables = self.compute_position_embedding()
            self.freqs_cos, self.freqs_sin = (table.to(x.device) for table in tables)
        grid = self.grid
        if in_backward() and self._repeated:
            grid = self._repeated[1]
        elif in_backward() or (self._in_doubt and torch.compiler.is_compiling()):
            grid = self._only_grid(x.shape[2] - E)
        turned = super().forward(x[:, :, E:], grid)
        return torch.cat([x[:, :, :E], turned.to(x.dtype)], dim=2)


class _GridsOfTensors:
    """The patch grids of tensors, by their storages: a detached tensor has its original's.

    Weak references: nothing is kept alive. A copy begins empty.
    """

    def __init__(self) -> None:
        self._grids: dict[StorageWeakRef, GridShape] = {}

    def __reduce__(self) -> tuple:
        return _GridsOfTensors, ()

    def note(self, tensor: Tensor, grid: GridShape) -> None:
        key = self._key(tensor)
        if key is not None:
            self._grids[key] = grid

    def of(self, tensor: Tensor) -> GridShape | None:
        key = self._key(tensor)
        return None if key is None else self._grids.get(key)

    def forget_freed(self) -> None:
        self._grids = {key: grid for key, grid in self._grids.items() if not key.expired()}

    @staticmethod
    def _key(tensor: Tensor) -> StorageWeakRef | None:
        try:
            return StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):  # as in torch.func's transformations
            return None


class _OpenPasses:
    """The patch grids of the passes that a backward pass may still repeat.

    A copy begins empty.
    """

    def __init__(self) -> None:
        self._open: WeakSet[_Pass] = WeakSet()
        self._begun: _Pass | None = None
        # Of passes of which nothing tells when they are done with.
        self._for_good: set[GridShape] = set()

    def __reduce__(self) -> tuple:
        return _OpenPasses, ()

    def begin(self, grid: GridShape) -> None:
        if self._begun is not None:
            self._for_good.add(self._begun.grid)
        self._begun = _Pass(grid) if torch.is_grad_enabled() else None

    def follow(self, tensor: Tensor) -> None:
        """Tell the end of the pass that has begun by its first tensor with a gradient."""
        if self._begun is None or not tensor.requires_grad:
            return
        tensor.register_hook(self._begun)
        self._open.add(self._begun)
        self._begun = None

    def grids(self, N: int) -> set[GridShape]:
        """The grids of N patches."""
        grids = {each.grid for each in self._open if not each.done} | self._for_good
        if self._begun is not None:
            grids.add(self._begun.grid)
        return {(H, W) for H, W in grids if H * W == N}


class _Pass:
    """A pass, which is done with after its backward pass or when its graph is gone.

    It is a hook of a tensor at its beginning, and nothing but the graph keeps it alive.
    """

    def __init__(self, grid: GridShape) -> None:
        self.grid = grid
        self.done = False

    def __call__(self, _gradient: Tensor) -> None:
        # The gradient has come through all layers, and a graph that is not kept has no second.
        self.done = not torch._C._autograd._get_current_graph_task_keep_graph()


def _attend(rope: RotaryEmbedding, attend, query: Tensor, key: Tensor, value: Tensor, **kwargs):
    return attend(rope(query), rope(key), value, **kwargs)


def add_rotary_encoding(backbone: nn.Module) -> None:
    """Turn queries and keys in every layer of one of MMPretrain's ViTs.

    Args:
        backbone (nn.Module): The ViT, which adds no other encoding.

    Raises:
        UserError: If its heads have no multiple of 4 channels.
    """
    num_heads = backbone.arch_settings['num_heads']
    channels = backbone.embed_dims // num_heads
    if channels % 4:
        raise options.wrong(
            'pos_encoding',
            'rope',
            'turns pairs of channels for rows and for columns, and the '
            f'{num_heads} attention heads of embed_dims={backbone.embed_dims} have {channels} '
            'channels each: set arch to have a multiple of 4',
        )
    backbone.rope = rope = RotaryEmbedding(
        channels, built_grid(backbone), num_extra_tokens=backbone.num_extra_tokens
    )
    backbone.patch_embed.register_forward_hook(rope.see_grid)
    backbone.register_forward_hook(rope.see_end)
    for i, layer in enumerate(backbone.layers):
        layer.ln1.register_forward_pre_hook(partial(rope.see_input, 2 * i))
        layer.attn.qkv.register_forward_pre_hook(partial(rope.see_input, 2 * i + 1))
        attend = layer.attn.scaled_dot_product_attention
        layer.attn.scaled_dot_product_attention = partial(_attend, rope, attend)
