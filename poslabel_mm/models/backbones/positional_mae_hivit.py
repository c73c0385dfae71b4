from mmengine.model import BaseModule
from mmpretrain.models.selfsup import MAEHiViT

from poslabel_mm.labels import GridShape
from poslabel_mm.registry import MODELS
from .positional_encoding import PositionalEncodingChoice


@MODELS.register_module()
class PositionalMAEHiViT(PositionalEncodingChoice, MAEHiViT):
    """MAE's hierarchical encoder with a choice of positional encoding.

    State-dict keys are the stock ones; see :class:`PositionalEncodingChoice`
    for what is saved and loaded. Leave ``ape`` at True: ``pos_encoding`` takes
    its place.

    Args:
        *args: The stock ``MAEHiViT``'s arguments.
        pos_encoding (str): 'sincos' (the stock one), 'learned',
            'learned_sincos' or 'none'. Defaults to 'sincos'.
        **kwargs: The stock ``MAEHiViT``'s arguments.

    Raises:
        UserError: For another ``pos_encoding``.
    """

    def __init__(self, *args, pos_encoding: str = 'sincos', **kwargs) -> None:
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)

    @property
    def encoded_grid(self) -> GridShape:
        return tuple(self.patch_embed.patches_resolution)

    def _init_stock_weights(self) -> None:
        # The stock encoder always starts from sine-cosine, and reads no
        # checkpoint.
        if self.is_pretrained:
            BaseModule.init_weights(self)
            return
        learned = self.pos_embed.detach().clone()
        super()._init_stock_weights()
        if self.pos_encoding == 'learned':
            self.pos_embed.data.copy_(learned)
