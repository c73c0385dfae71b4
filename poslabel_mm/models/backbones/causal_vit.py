from functools import partial

from poslabel_mm import options
from poslabel_mm.models.backbones.positional_vit import PositionalVisionTransformer
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class CausalVisionTransformer(PositionalVisionTransformer):
    """MMPretrain's ViT with causal attention, as iGPT's transformer has it.

    Every token sees itself and the tokens before it: the class token comes first and sees no
    patch, a patch sees the class token and the patches up to itself in raster order. State-dict
    keys are the stock ones.

    Args:
        *args: The stock ``VisionTransformer``'s arguments.
        out_type (str): 'raw' (all tokens), 'featmap' or 'avg_featmap'. Defaults to 'raw'.
        **kwargs: As of :class:`PositionalVisionTransformer`.

    Raises:
        UserError: For ``out_type='cls_token'``, and as of :class:`PositionalVisionTransformer`.
    """

    is_causal = True

    def __init__(self, *args, out_type: str = 'raw', **kwargs) -> None:
        if out_type == 'cls_token':
            raise options.wrong(
                'out_type',
                out_type,
                'is refused: with causal attention the class token, which comes first, sees no '
                "patch; set it to 'raw', 'featmap' or 'avg_featmap'",
            )
        super().__init__(*args, out_type=out_type, **kwargs)
        for layer in self.layers:
            attend = layer.attn.scaled_dot_product_attention
            layer.attn.scaled_dot_product_attention = partial(attend, is_causal=True)
