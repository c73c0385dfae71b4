import torch
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.models.backbones.encoding_drop import EncodingDrop
from poslabel_mm.models.backbones.positional_encoding import (
    NOT_ADDED,
    POS_ENCODINGS,
    PositionalEncodingChoice,
)
from poslabel_mm.models.backbones.rotary_encoding import add_rotary_encoding


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
        **kwargs: The stock backbone's arguments.

    Attributes:
        labelled_places (Tensor, optional): int64 of shape (B, n), the patches of the last
            forward pass that position heads are to read. None for all.

    Raises:
        UserError: For another ``pos_encoding``; for attention heads that 'rope' cannot turn; for
            a ``pos_drop`` that is no such dict, or without an encoding that could be dropped.
    """

    pos_encodings = (*POS_ENCODINGS, 'rope')
    labelled_places: Tensor | None = None

    def __init__(self, *args, pos_encoding: str, pos_drop: dict | None = None, **kwargs) -> None:
        drop = EncodingDrop.build('pos_drop', pos_drop)
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)
        if pos_encoding == 'rope':
            add_rotary_encoding(self)
        if drop is not None and pos_encoding in NOT_ADDED:
            raise options.wrong(
                'pos_drop',
                pos_drop,
                f'finds no encoding to drop with pos_encoding={pos_encoding!r}: '
                f'leave it out, or choose from {[e for e in POS_ENCODINGS if e != "none"]}',
            )
        self.pos_drop = drop
        self._patches: Tensor | None = None
        if drop is not None:
            self.patch_embed.register_forward_hook(self._keep_patches)
            self.drop_after_pos.register_forward_pre_hook(self._drop_encoding)

    def _keep_patches(self, _patch_embed: nn.Module, _inputs: tuple, output: tuple) -> None:
        """After the patch embedding: keep the patches (B, N, C) as they are without encoding."""
        self._patches = output[0] if self.training else None
        self.labelled_places = None

    def _drop_encoding(self, _drop_after_pos: nn.Module, inputs: tuple) -> Tensor | None:
        """Before the first dropout, which gets the tokens (B, E + N, C) with their encoding."""
        if self._patches is None:
            return None
        (tokens,), patches, self._patches = inputs, self._patches, None
        B, N, _ = patches.shape
        dropped, self.labelled_places = self.pos_drop.draw(B, N, patches.device)
        E = tokens.shape[1] - N
        kept = torch.where(dropped.unsqueeze(-1), patches, tokens[:, E:])
        return torch.cat([tokens[:, :E], kept], dim=1)
