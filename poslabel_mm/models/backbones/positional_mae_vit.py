import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.selfsup import MAEViT
from torch import Tensor, nn

from poslabel_mm.models.backbones.encoding_swap import EncodingSwap
from poslabel_mm.models.backbones.positional_encoding import MaskedEncodingChoice, check_is_added
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens.masked import shuffled_indices


class MAEEncodingChoice(MaskedEncodingChoice):
    """A choice of positional encoding for a stock ``MAEViT``.

    Mixed in to the left of MMPretrain's, or of MMSelfSup's.

    Args:
        *args: The stock backbone's arguments.
        pos_swap (float, optional): In training, exchange the encodings of this
            part of every image's visible patches among them, see
            :class:`~.encoding_swap.EncodingSwap`. Defaults to None: every
            patch has its own.
        **kwargs: As of :class:`~.positional_encoding.MaskedEncodingChoice`.

    Attributes:
        plain_vit (type): The ViT that the stock ``MAEViT`` derives from.
        swapped_patches (Tensor, optional): bool of shape (B, n), those of the
            visible patches of the last masked pass, in the order of the
            encoder's tokens, that have the encoding of another place. None if
            none were drawn.

    Raises:
        UserError: For a ``pos_swap`` that is no such number, or without an
            encoding to swap.
    """

    plain_vit: type
    swapped_patches: Tensor | None = None

    def __init__(self, *args, pos_swap: float | None = None, **kwargs) -> None:
        swap = EncodingSwap.build('pos_swap', pos_swap)
        super().__init__(*args, **kwargs)
        check_is_added('pos_swap', pos_swap, 'swap', self.pos_encoding)
        self.pos_swap = swap

    def random_masking(self, x: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor, Tensor]:
        """The stock masking of patches (B, N, C) that have their encoding."""
        visible, mask, ids_restore = super().random_masking(x, *args, **kwargs)
        self.swapped_patches = None
        if self.pos_swap is not None and self.training and torch.is_grad_enabled():
            B, n, _ = visible.shape
            order = self.pos_swap.draw(B, n, x.device)
            places = shuffled_indices(ids_restore, n)
            encoding = self.pos_embed[:, -x.shape[1] :].expand(B, -1, -1)
            own, others = (
                encoding.take_along_dim(each.unsqueeze(-1), dim=1)
                for each in (places, places.gather(1, order))
            )
            # In brackets: exactly 0 where a patch keeps its own.
            visible = visible + (others - own)
            self.swapped_patches = order != torch.arange(n, device=order.device)
        return visible, mask, ids_restore

    def _init_stock_weights(self) -> None:
        # As in MAEViT.init_weights, which takes the grid for a square.
        self.plain_vit.init_weights(self)
        nn.init.xavier_uniform_(self.patch_embed.projection.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)


@MODELS.register_module()
class PositionalMAEViT(MAEEncodingChoice, MAEViT):
    """MAE's encoder with a choice of positional encoding (Sec. 3.3).

    With 'none' the encoder is equivariant: permuting the visible patches
    permutes its tokens, so that a position head cannot read the place of a
    token off an embedding. The decoder keeps its own encoding.

    State-dict keys are the stock ones; see :class:`PositionalEncodingChoice`
    for what is saved and loaded. Unlike the stock encoder it takes non-square
    grids, and weights that ``init_cfg`` loads into it stay as they are. While
    masking it takes images of the size alone that it was built for.

    Args:
        *args: The stock ``MAEViT``'s arguments.
        pos_encoding (str): 'sincos' (the stock one), 'learned',
            'learned_sincos' or 'none'. Defaults to 'sincos'.
        pos_swap (float, optional): As of :class:`MAEEncodingChoice`. Defaults
            to None.
        **kwargs: The stock ``MAEViT``'s arguments.

    Raises:
        UserError: For another ``pos_encoding``, for a ``pos_swap`` that does
            not fit, and while masking for images of another size.
    """

    plain_vit = VisionTransformer
