from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.selfsup import MAEViT
from torch import nn

from poslabel_mm.models.backbones.positional_encoding import MaskedEncodingChoice
from poslabel_mm.registry import MODELS


class MAEEncodingChoice(MaskedEncodingChoice):
    """A choice of positional encoding for a stock ``MAEViT``.

    Mixed in to the left of MMPretrain's, or of MMSelfSup's.

    Attributes:
        plain_vit (type): The ViT that the stock ``MAEViT`` derives from.
    """

    plain_vit: type

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
        **kwargs: The stock ``MAEViT``'s arguments.

    Raises:
        UserError: For another ``pos_encoding``, and while masking for images
            of another size.
    """

    plain_vit = VisionTransformer
