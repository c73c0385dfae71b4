from mmengine.model import BaseModule
from mmpretrain.models.selfsup import MAEHiViT
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.masked_tokens import built_grid, built_image_size
from poslabel_mm.registry import MODELS
from .positional_encoding import PositionalEncodingChoice


@MODELS.register_module()
class PositionalMAEHiViT(PositionalEncodingChoice, MAEHiViT):
    """MAE's hierarchical encoder with a choice of positional encoding.

    State-dict keys are the stock ones; see :class:`PositionalEncodingChoice`
    for what is saved and loaded. Leave ``ape`` at True: ``pos_encoding`` takes
    its place. Unlike the stock encoder it takes non-square grids, of the image
    size that it was built for alone.

    Args:
        *args: The stock ``MAEHiViT``'s arguments.
        pos_encoding (str): 'sincos' (the stock one), 'learned',
            'learned_sincos' or 'none'. Defaults to 'sincos'.
        **kwargs: The stock ``MAEHiViT``'s arguments.

    Raises:
        UserError: For another ``pos_encoding``, and for images of another
            size where the grid is not square.
    """

    def __init__(self, *args, pos_encoding: str = 'sincos', **kwargs) -> None:
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)

    def interpolate_pos_encoding(self, tokens: Tensor, height: int,
                                 width: int) -> Tensor:
        H, W = built_grid(self)
        if H == W:
            return super().interpolate_pos_encoding(tokens, height, width)
        # The stock encoder takes every encoding for a square's.
        if (height, width) != built_image_size(self):
            raise UserError(
                f'an image of {height}x{width} pixels has another patch grid '
                f'than {H}x{W}, which {type(self).__name__} was built for: '
                'set backbone.img_size to the size of the images')
        return self.pos_embed

    def _init_stock_weights(self) -> None:
        # As in MAEHiViT.init_weights, which takes the grid for a square, always
        # starts from sine-cosine, and reads no checkpoint.
        if self.is_pretrained:
            BaseModule.init_weights(self)
            return
        self.apply(self._init_weights)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
