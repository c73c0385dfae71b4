from mmpretrain.models.selfsup import SimMIM

from poslabel_mm.models.selfsup.masked_labels import MaskedLabels
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.masked import visible_tokens


@MODELS.register_module()
class PositionalLabelSimMIM(MaskedLabels, SimMIM):
    """MMPretrain's SimMIM, trained with positional labels.

    The position heads read the last feature map where all of a token's patch
    is visible. Mask in units of the encoder's stride, as SimMIM does (32 px
    for Swin), for every image to have as many of them.

    Args:
        *args: The stock ``SimMIM``'s arguments.
        pos_head (dict | list[dict]): One or several position heads; their
            grid is that of the last stage (6x6 for Swin at 192 px).
        **kwargs: The stock ``SimMIM``'s arguments.
    """

    def read_tokens(self, inputs: tuple, outputs: tuple) -> PatchTokens:
        _, mask = inputs
        feature_map = outputs[-1]
        return visible_tokens(
            feature_map.flatten(2).transpose(1, 2), mask, tuple(feature_map.shape[2:])
        )
