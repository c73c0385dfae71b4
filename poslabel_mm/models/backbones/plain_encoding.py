import torch
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.models.backbones.encoding_drop import EncodingDrop
from poslabel_mm.models.backbones.encoding_swap import EncodingSwap
from poslabel_mm.models.backbones.patch_drop import PatchDrop
from poslabel_mm.models.backbones.positional_encoding import (
    POS_ENCODINGS,
    PositionalEncodingChoice,
    check_is_added,
)
from poslabel_mm.models.backbones.rotary_encoding import add_rotary_encoding
from poslabel_mm.tokens.labels import GridShape


class PlainEncodingChoice(PositionalEncodingChoice):
    """A choice of positional encoding for a plain ViT, which adds it once, to all patches.

    What training changes of the tokens is in parts:
    :class:`~.patch_drop.PatchDrop`, :class:`~.encoding_swap.EncodingSwap` and
    :class:`~.encoding_drop.EncodingDrop`, in this order.

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
        patch_drop_rate (float): In training, leave this part of every image's patches out before
            the first layer, drawn anew for every image, as the sparse student of DILEMMA (arXiv
            2204.04788) does: from 0 on, below 1; rounded to whole patches, and one is left at
            least. ``pos_swap`` and ``pos_drop`` take their parts of those that are left, which
            are the ones that position heads read. A pass without gradient has all patches.
            Defaults to 0.
        **kwargs: The stock backbone's arguments.

    Attributes:
        kept_places (Tensor, optional): int64 of shape (B, n), the patches of the last forward
            pass that were not left out, in ascending order. None for all.
        labelled_places (Tensor, optional): int64 of shape (B, n), the patches of the last
            forward pass that position heads are to read. None for all that it has.
        swapped_patches (Tensor, optional): bool of shape (B, n), those of the patches of the last
            forward pass that have the encoding of another place. None if none were drawn.

    Raises:
        UserError: For another ``pos_encoding``; for attention heads that 'rope' cannot turn; for
            a ``pos_drop`` that is no such dict or a ``pos_swap`` that is no such number, or one
            of them without an encoding to drop or to swap; for a ``pos_swap`` where the heads
            read dropped patches alone; for a ``patch_drop_rate`` beside what needs all patches.
    """

    pos_encodings = (*POS_ENCODINGS, 'rope')
    kept_places: Tensor | None = None
    labelled_places: Tensor | None = None
    swapped_patches: Tensor | None = None

    def __init__(
        self,
        *args,
        pos_encoding: str,
        pos_drop: dict | None = None,
        pos_swap: float | None = None,
        patch_drop_rate: float = 0,
        **kwargs,
    ) -> None:
        drop = EncodingDrop.build('pos_drop', pos_drop)
        swap = EncodingSwap.build('pos_swap', pos_swap)
        patch_drop = PatchDrop.build('patch_drop_rate', patch_drop_rate)
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)
        if pos_encoding == 'rope':
            add_rotary_encoding(self)
        for key, value, verb in ('pos_drop', pos_drop, 'drop'), ('pos_swap', pos_swap, 'swap'):
            check_is_added(key, value, verb, pos_encoding)
        if swap is not None and drop is not None and drop.labelled == 'dropped':
            raise options.wrong(
                'pos_swap',
                pos_swap,
                "exchanges encodings, and with pos_drop.labelled='dropped' the position heads "
                "read patches without one: leave one of the two out, or set labelled='all'",
            )
        self.pos_drop, self.pos_swap, self.patch_drop = drop, swap, patch_drop
        self.patch_drop_rate = 0 if patch_drop is None else patch_drop.rate
        if patch_drop is not None:
            self._check_leaves_out(drop)
        self._patches: tuple[Tensor, GridShape] | None = None
        if any(part is not None for part in (drop, swap, patch_drop)):
            self.patch_embed.register_forward_hook(self._remember_patches)
            self.drop_after_pos.register_forward_pre_hook(self._change_tokens)

    def _check_leaves_out(self, drop: EncodingDrop | None) -> None:
        """Refuse to leave patches out where all are needed."""
        if self.pos_encoding == 'rope':
            reason = "pos_encoding='rope' turns all patches of the grid"
        elif self.out_type == 'featmap':
            reason = "out_type='featmap' is a map of all patches"
        elif drop is not None and drop.labelled == 'dropped':
            reason = "with pos_drop.labelled='dropped' the position heads read drawn patches"
        else:
            return
        raise options.wrong(
            'patch_drop_rate',
            self.patch_drop_rate,
            f'leaves patches out, and {reason}: set one of the two to another value',
        )

    def _remember_patches(self, _patch_embed: nn.Module, _inputs: tuple, output: tuple) -> None:
        """After the patch embedding: the patches (B, N, C), as they are without encoding."""
        self._patches = output if self.training else None
        self.kept_places = self.labelled_places = self.swapped_patches = None

    def _change_tokens(self, _drop_after_pos: nn.Module, inputs: tuple) -> Tensor | None:
        """Before the first dropout, which gets the tokens (B, E + N, C) with their encoding.

        Of the N patches n are left, and some of them get another encoding or none: (B, E + n, C).
        """
        if self._patches is None:
            return None
        (tokens,), (patches, grid_shape), self._patches = inputs, self._patches, None
        B, N, _ = patches.shape
        extra, tokens = tokens.split([tokens.shape[1] - N, N], dim=1)
        n, with_grad = N, torch.is_grad_enabled()
        if self.patch_drop is not None and with_grad:
            kept = self.patch_drop.draw(B, N, patches.device)
            self.kept_places, n = kept, kept.shape[1]
            tokens, patches = _taken(tokens, kept), _taken(patches, kept)
        if self.pos_swap is not None and with_grad:
            order = self.pos_swap.draw(B, n, patches.device)  # of those that are left
            places = order if self.kept_places is None else self.kept_places.gather(1, order)
            encoding = self._encoding(grid_shape).expand(B, -1, -1)
            tokens = patches + _taken(encoding, places)
            self.swapped_patches = order != torch.arange(n, device=order.device)
        if self.pos_drop is not None:
            dropped, self.labelled_places = self.pos_drop.draw(B, n, patches.device)
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


def _taken(tokens: Tensor, places: Tensor) -> Tensor:
    """Those of the tokens (B, N, C) that are at the places (B, n)."""
    return tokens.take_along_dim(places.unsqueeze(-1), dim=1)
