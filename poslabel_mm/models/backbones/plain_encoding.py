import torch
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.models.backbones.encoding_drop import EncodingDrop
from poslabel_mm.models.backbones.encoding_swap import EncodingSwap
from poslabel_mm.models.backbones.positional_encoding import (
    NOT_ADDED,
    POS_ENCODINGS,
    PositionalEncodingChoice,
)
from poslabel_mm.models.backbones.rotary_encoding import add_rotary_encoding
from poslabel_mm.tokens.labels import GridShape


class PlainEncodingChoice(PositionalEncodingChoice):
    """A choice of positional encoding for a plain ViT, which adds it once, to all patches.

    Mixed in to the left of a ViT that runs as MMPretrain's ``VisionTransformer``.

    Args:
        *args: The stock backbone's arguments.
        pos_encoding (str): As of :class:`PositionalEncodingChoice`, or 'rope': queries and keys
            of every layer are turned by the places of their patches, so that their scores depend
            on the offset of two patches, and nothing is added or saved.
        pos_drop (dict, optional): In training, leave the encoding of drawn patches out: the
            arguments of :class:`~.encoding_drop.EncodingDrop`. Class tokens keep theirs. Defaults
            to None: no patch loses its encoding.
        pos_swap (float, optional): In training, exchange the encodings of this part of every
            image's patches among them, see :class:`~.encoding_swap.EncodingSwap`. A pass without
            gradient, as of a momentum encoder, has the right ones. Defaults to None: every patch
            has its own.
        **kwargs: The stock backbone's arguments.

    Attributes:
        labelled_places (Tensor, optional): int64 of shape (B, n), the patches of the last
            forward pass that position heads are to read. None for all.
        swapped_patches (Tensor, optional): bool of shape (B, N), the patches of the last forward
            pass that have the encoding of another place. None if none were drawn.

    Raises:
        UserError: For another ``pos_encoding``; for attention heads that 'rope' cannot turn; for
            a ``pos_drop`` that is no such dict or a ``pos_swap`` that is no such number, or one
            of them without an encoding to drop or to swap; for a ``pos_swap`` where the heads
            read dropped patches alone.
    """

    pos_encodings = (*POS_ENCODINGS, 'rope')
    labelled_places: Tensor | None = None
    swapped_patches: Tensor | None = None

    def __init__(
        self,
        *args,
        pos_encoding: str,
        pos_drop: dict | None = None,
        pos_swap: float | None = None,
        **kwargs,
    ) -> None:
        drop = EncodingDrop.build('pos_drop', pos_drop)
        swap = EncodingSwap.build('pos_swap', pos_swap)
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)
        if pos_encoding == 'rope':
            add_rotary_encoding(self)
        for key, value, verb in ('pos_drop', pos_drop, 'drop'), ('pos_swap', pos_swap, 'swap'):
            if value is not None and pos_encoding in NOT_ADDED:
                raise options.wrong(
                    key,
                    value,
                    f'finds no encoding to {verb} with pos_encoding={pos_encoding!r}: '
                    f'leave it out, or choose from {[e for e in POS_ENCODINGS if e != "none"]}',
                )
        if swap is not None and drop is not None and drop.labelled == 'dropped':
            raise options.wrong(
                'pos_swap',
                pos_swap,
                "exchanges encodings, and with pos_drop.labelled='dropped' the position heads "
                "read patches without one: leave one of the two out, or set labelled='all'",
            )
        self.pos_drop, self.pos_swap = drop, swap
        self._patches: tuple[Tensor, GridShape] | None = None
        if drop is not None or swap is not None:
            self.patch_embed.register_forward_hook(self._keep_patches)
            self.drop_after_pos.register_forward_pre_hook(self._change_encoding)

    def _keep_patches(self, _patch_embed: nn.Module, _inputs: tuple, output: tuple) -> None:
        """After the patch embedding: keep the patches (B, N, C) as they are without encoding."""
        self._patches = output if self.training else None
        self.labelled_places = self.swapped_patches = None

    def _change_encoding(self, _drop_after_pos: nn.Module, inputs: tuple) -> Tensor | None:
        """Before the first dropout, which gets the tokens (B, E + N, C) with their encoding."""
        if self._patches is None:
            return None
        (tokens,), (patches, grid_shape), self._patches = inputs, self._patches, None
        B, N, _ = patches.shape
        extra, tokens = tokens.split([tokens.shape[1] - N, N], dim=1)
        if self.pos_swap is not None and torch.is_grad_enabled():
            places = self.pos_swap.draw(B, N, patches.device)
            tokens = patches + self._encoding(grid_shape).expand(B, -1, -1).take_along_dim(
                places.unsqueeze(-1), dim=1
            )
            self.swapped_patches = places != torch.arange(N, device=places.device)
        if self.pos_drop is not None:
            dropped, self.labelled_places = self.pos_drop.draw(B, N, patches.device)
            tokens = torch.where(dropped.unsqueeze(-1), patches, tokens)
            if self.swapped_patches is not None:
                # One without encoding has none of another place.
                self.swapped_patches = self.swapped_patches & ~dropped
        return torch.cat([extra, tokens], dim=1)

    def _encoding(self, grid_shape: GridShape) -> Tensor:
        """The encoding of a grid's places, (1, N, C), as the stock backbone adds it."""
        encoding = resize_pos_embed(
            self.pos_embed,
            self.patch_resolution,
            grid_shape,
            mode=self.interpolate_mode,
            num_extra_tokens=self.num_extra_tokens,
        )
        return encoding[:, self.num_extra_tokens :]
