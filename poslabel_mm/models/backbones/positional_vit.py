from mmpretrain.models.backbones import VisionTransformer

from poslabel_mm.models.backbones.positional_encoding import PositionalEncodingChoice
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalVisionTransformer(PositionalEncodingChoice, VisionTransformer):
    """MMPretrain's ViT with a choice of positional encoding (Table 1).

    State-dict keys are the stock ones; see :class:`PositionalEncodingChoice`
    for what is saved and loaded.

    Args:
        *args: The stock ``VisionTransformer``'s arguments.
        pos_encoding (str): 'learned' (the stock one), 'sincos' (fixed),
            'learned_sincos' (learned from the sine-cosine one on, as MAE
            fine-tunes) or 'none'. Defaults to 'learned'.
        **kwargs: The stock ``VisionTransformer``'s arguments.

    Raises:
        UserError: For another ``pos_encoding``.
    """

    def __init__(self, *args, pos_encoding: str = 'learned', **kwargs) -> None:
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)
