from mmpretrain.models.selfsup import MAEHiViT
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from poslabel_mm.models.backbones.positional_encoding import MaskedEncodingChoice
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens.masked import built_grid


@MODELS.register_module()
class PositionalMAEHiViT(MaskedEncodingChoice, MAEHiViT):
    """MAE's hierarchical encoder with a choice of positional encoding.

    State-dict keys are the stock ones; see :class:`PositionalEncodingChoice`
    for what is saved and loaded. Leave ``ape`` at True: ``pos_encoding`` takes
    its place. Unlike the stock encoder it takes non-square grids. While masking it
    takes images of the size alone that it was built for.

    Args:
        *args: The stock ``MAEHiViT``'s arguments.
        pos_encoding (str): 'sincos' (the stock one), 'learned',
            'learned_sincos' or 'none'. Defaults to 'sincos'.
        **kwargs: The stock ``MAEHiViT``'s arguments.

    Raises:
        UserError: For another ``pos_encoding``, and while masking for images
            of another size.
    """

    def interpolate_pos_encoding(self, tokens: Tensor, height: int, width: int) -> Tensor:
        H, W = built_grid(self)
        if H == W:
            return super().interpolate_pos_encoding(tokens, height, width)
        # The stock encoder takes every encoding for a square's.
        grid = height // self.patch_size, width // self.patch_size
        return resize_pos_embed(self.pos_embed, (H, W), grid, num_extra_tokens=0)

    def _init_stock_weights(self) -> None:
        # As in MAEHiViT.init_weights, which takes the grid for a square and always
        # starts from sine-cosine.
        self.apply(self._init_weights)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
