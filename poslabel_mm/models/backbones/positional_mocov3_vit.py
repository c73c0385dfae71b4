from mmpretrain.models.selfsup import MoCoV3ViT
from torch import nn

from poslabel_mm.models.backbones.plain_encoding import PlainEncodingChoice
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalMoCoV3ViT(PlainEncodingChoice, MoCoV3ViT):
    """MoCo v3's encoder with a choice of positional encoding.

    State-dict keys are the stock ones; see
    :class:`~.positional_encoding.PositionalEncodingChoice` for what is saved
    and loaded.

    Args:
        *args: The stock ``MoCoV3ViT``'s arguments.
        pos_encoding (str): 'sincos' (the stock one), 'learned',
            'learned_sincos', 'rope' or 'none'. Defaults to 'sincos'.
        pos_drop (dict, optional): In training, leave the encoding of drawn
            patches out: the arguments of :class:`~.encoding_drop.EncodingDrop`.
            Defaults to None. The momentum encoder leaves out other patches,
            drawn for it alone.
        pos_swap (float, optional): In training, exchange the encodings of this
            part of every image's patches among them, see
            :class:`~.encoding_swap.EncodingSwap`. Defaults to None. The
            momentum encoder has the right ones.
        patch_drop_rate (float): In training, leave this part of every image's
            patches out, from 0 on, below 1; rounded to whole patches.
            Defaults to 0. The momentum encoder has all patches.
        **kwargs: The stock ``MoCoV3ViT``'s arguments.

    Raises:
        UserError: As of :class:`~.plain_encoding.PlainEncodingChoice`.
    """

    def __init__(self, *args, pos_encoding: str = 'sincos', **kwargs) -> None:
        super().__init__(*args, pos_encoding=pos_encoding, **kwargs)

    def _init_stock_weights(self) -> None:
        # The stock encoder starts from the sine-cosine encoding, and freezes it.
        learns = self.pos_embed.requires_grad
        super()._init_stock_weights()
        self.pos_embed.requires_grad = learns
        if self.pos_encoding == 'learned':
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
