import torch
from mmengine.model import BaseModule
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.backbones.encoding_grid import keep_grid
from poslabel_mm.models.pretrained import loads_checkpoint
from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.masked import built_grid, check_image_size

POS_ENCODINGS = ('learned', 'sincos', 'learned_sincos', 'none')
# Those that add nothing to the patch embeddings.
NOT_ADDED = ('none', 'rope')


def check_is_added(key: str, value: object, verb: str, pos_encoding: str) -> None:
    """Refuse an option that changes the added encoding where there is none.

    Args:
        key (str): The option's name.
        value (Any): Its value; None asks for nothing.
        verb (str): What it does with encodings.
        pos_encoding (str): The encoding.

    Raises:
        UserError: If nothing is added.
    """
    if value is not None and pos_encoding in NOT_ADDED:
        raise options.wrong(
            key,
            value,
            f'finds no encoding to {verb} with pos_encoding={pos_encoding!r}: '
            f'leave it out, or choose from {[e for e in POS_ENCODINGS if e != "none"]}',
        )


def fill_sincos(pos_embed: Tensor, grid_shape: GridShape) -> None:
    """Write the 2-D sine-cosine encoding of a patch grid into a tensor.

    Args:
        pos_embed (Tensor): Of shape (1, extra tokens + N, C), changed in
            place. Extra tokens come first, and have no place.
        grid_shape (tuple[int, int]): The patch grid (H, W), N = H·W.
    """
    H, W = grid_shape
    # The stock function counts the patches column by column, which only on a
    # square grid is row by row with the axes exchanged.
    encoding = build_2d_sincos_position_embedding((W, H), pos_embed.shape[-1])
    with torch.no_grad():
        pos_embed.zero_()
        pos_embed[:, -H * W :].copy_(encoding)


class PositionalEncodingChoice:
    """A choice of positional encoding for a backbone that adds `pos_embed`.

    Mixed in to the left of one of MMPretrain's backbones, whose `pos_embed` is
    a parameter of shape (1, extra tokens + N, C), and whose forward pass adds
    it whatever it holds. State-dict keys are the stock ones. A model without
    encoding saves no ``pos_embed``, so that a model fine-tuned from it keeps
    its own, and passes over the one in a stock checkpoint. Every other model
    takes what a checkpoint holds, as the stock one does, and one of another
    patch grid interpolated (:func:`~.encoding_grid.keep_grid`).

    Args:
        *args: The stock backbone's arguments.
        pos_encoding (str): What is added to the patch embeddings:

            - 'learned': a learned absolute encoding.
            - 'sincos': the 2-D sine-cosine encoding, or what a checkpoint
              holds; it is not trained.
            - 'learned_sincos': learned from the sine-cosine one on, as MAE
              fine-tunes.
            - 'none': nothing; the tokens know their place from the
              positional labels alone.
        checkpoint_grid (tuple[int, int], optional): Patch grid (H, W) of the
            encodings in checkpoints that do not tell theirs. Defaults to None:
            a square.
        **kwargs: The stock backbone's arguments.

    Attributes:
        pos_encodings (tuple[str, ...]): What ``pos_encoding`` may be.

    Raises:
        UserError: For another ``pos_encoding``, or a ``checkpoint_grid`` that
            is none. On loading, if the grid of an encoding is not told and
            need not be a square.
    """

    pos_encodings = POS_ENCODINGS

    def __init__(
        self, *args, pos_encoding: str, checkpoint_grid: GridShape | None = None, **kwargs
    ) -> None:
        options.choice('pos_encoding', pos_encoding, self.pos_encodings)
        checkpoint_grid = _as_grid(checkpoint_grid)
        super().__init__(*args, **kwargs)
        self.pos_encoding = pos_encoding
        self.checkpoint_grid = checkpoint_grid
        if pos_encoding in NOT_ADDED:
            # Zeros that are no parameter and in no checkpoint.
            zeros = torch.zeros_like(self.pos_embed.data)
            del self.pos_embed
            self.register_buffer('pos_embed', zeros, persistent=False)
            return
        self.pos_embed.requires_grad = pos_encoding != 'sincos' and self.frozen_stages <= 0
        if 'sincos' in pos_encoding:
            # At once, for a checkpoint without encoding to leave it in place.
            fill_sincos(self.pos_embed, built_grid(self))
        keep_grid(self, checkpoint_grid=self.checkpoint_grid)

    def init_weights(self) -> None:
        if loads_checkpoint(self):
            # The stock backbones would draw some weights anew after loading, unless
            # `init_cfg` is a dict whose type is a string.
            BaseModule.init_weights(self)
        else:
            self._init_stock_weights()
            if 'sincos' in self.pos_encoding:
                fill_sincos(self.pos_embed, built_grid(self))
        if self.pos_encoding in NOT_ADDED:
            self.pos_embed.zero_()

    def _init_stock_weights(self) -> None:
        """Draw the weights of a model that starts from no checkpoint."""
        super().init_weights()

    def train(self, mode: bool = True) -> 'PositionalEncodingChoice':
        # MMPretrain's backbones return nothing.
        super().train(mode)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        if self.pos_encoding in NOT_ADDED:
            state_dict.pop(prefix + 'pos_embed', None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _as_grid(grid) -> GridShape | None:
    if grid is None:
        return None
    try:
        rows, columns = grid if isinstance(grid, (list, tuple)) else ()
        return options.patch_grid('checkpoint_grid', (rows, columns))
    except ValueError:
        raise options.wrong(
            'checkpoint_grid', grid, 'is no patch grid: set it to (rows, columns)'
        ) from None


class MaskedEncodingChoice(PositionalEncodingChoice):
    """A choice of positional encoding for an encoder that masks as MAE's.

    While masking it takes images of the size alone that it was built for: the
    decoder has one place a patch. Called with ``mask=None`` it takes what the
    stock encoder does.

    Raises:
        UserError: For images of another size.
    """

    def __init__(self, *args, pos_encoding: str = 'sincos', **kwargs) -> None:
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)

    # MMSelfSup's encoder has no argument `mask`.
    def forward(self, images: Tensor, *mask, **kwargs):
        if not any(value is None for value in (*mask, *kwargs.values())):
            check_image_size(self, images.shape[-2:])
        return super().forward(images, *mask, **kwargs)
