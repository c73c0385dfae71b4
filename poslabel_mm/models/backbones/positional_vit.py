from mmpretrain.models.backbones import VisionTransformer

from poslabel_mm.models.backbones.plain_encoding import PlainEncodingChoice
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalVisionTransformer(PlainEncodingChoice, VisionTransformer):
    """MMPretrain's ViT with a choice of positional encoding (Table 1).

    State-dict keys are the stock ones; see
    :class:`~.positional_encoding.PositionalEncodingChoice` for what is saved
    and loaded.

    Args:
        *args: The stock ``VisionTransformer``'s arguments.
        pos_encoding (str): 'learned' (the stock one), 'sincos' (fixed),
            'learned_sincos' (learned from the sine-cosine one on, as MAE
            fine-tunes), 'rope' (rotary, in the attention of every layer) or
            'none'. Defaults to 'learned'.
        pos_drop (dict, optional): In training, leave the encoding of drawn
            patches out: the arguments of :class:`~.encoding_drop.EncodingDrop`.
            Defaults to None.
        pos_swap (float, optional): In training, exchange the encodings of this
            part of every image's patches among them, see
            :class:`~.encoding_swap.EncodingSwap`. Defaults to None.
        patch_drop_rate (float): In training, leave this part of every image's
            patches out, from 0 on, below 1; rounded to whole patches.
            Defaults to 0.
        **kwargs: The stock ``VisionTransformer``'s arguments.

    Raises:
        UserError: As of :class:`~.plain_encoding.PlainEncodingChoice`.
    """

    def __init__(self, *args, pos_encoding: str = 'learned', **kwargs) -> None:
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)
