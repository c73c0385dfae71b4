"""Rotary positional encoding (RoPE) of a plain transformer's patches.

Shape letters: B batch, h attention heads of d channels, E class tokens, which come first, and
N = H·W patches.
"""

from functools import partial

import torch
from mmpretrain.models.utils import RotaryEmbeddingFast
from torch import Tensor, nn

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
        # All that it has of that pass is the number of patches: by that, the grids of the passes
        # that a backward pass may repeat.
        self._grids: dict[int, set[GridShape]] = {}
        self._repeated: set[int] = set()

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
        self.grid = H, W = tuple(map(int, output[1]))
        N = H * W
        if in_backward() or N in self._repeated:  # the passes before this one are done with
            self._repeated.discard(N)
            self._grids[N] = {self.grid}
        elif torch.is_grad_enabled():
            self._grids.setdefault(N, set()).add(self.grid)

    def _grid_of_pass(self, N: int) -> GridShape:
        """The grid of the pass that runs, or that activation checkpointing repeats."""
        if not in_backward():
            return self.grid
        self._repeated.add(N)
        grids = sorted(self._grids[N])
        if len(grids) > 1:
            names = ' and '.join(f'{H}x{W}' for H, W in grids)
            raise UserError(
                f"pos_encoding='rope' met patch grids of {names}, {N} patches each, before one "
                'backward pass, and activation checkpointing cannot tell whose attention it '
                'repeats: run the backward pass of one before the other is fed, or leave '
                'activation checkpointing of the layers out'
            )
        return grids[0]

    def forward(self, x: Tensor) -> Tensor:
        """Turn queries or keys by the places of their patches.

        Args:
            x (Tensor): Shape (B, h, E + N, d).

        Returns:
            Tensor: Of the same shape and dtype.

        Raises:
            UserError: If activation checkpointing repeats a pass and the number of patches does
                not tell its grid.
        """
        E = self.num_extra_tokens
        if self.freqs_cos.device != x.device:  # also where the model was built without memory
            tables = self.compute_position_embedding()
            self.freqs_cos, self.freqs_sin = (table.to(x.device) for table in tables)
        turned = super().forward(x[:, :, E:], self._grid_of_pass(x.shape[2] - E))
        return torch.cat([x[:, :, :E], turned.to(x.dtype)], dim=2)


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
    for layer in backbone.layers:
        attend = layer.attn.scaled_dot_product_attention
        layer.attn.scaled_dot_product_attention = partial(_attend, rope, attend)
