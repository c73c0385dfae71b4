from mmpretrain.models.selfsup import MaskFeat

from poslabel_mm.models.selfsup.masked_labels import MaskedLabels
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.masked import patch_grid, visible_tokens


@MODELS.register_module()
class PositionalLabelMaskFeat(MaskedLabels, MaskFeat):
    """MMPretrain's MaskFeat, trained with positional labels.

    The position heads read the encoder's tokens where the patch is visible.

    Args:
        *args: The stock ``MaskFeat``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``MaskFeat``'s arguments.
    """

    def read_tokens(self, inputs: tuple, outputs) -> PatchTokens:
        images, mask = inputs
        return visible_tokens(outputs, mask, patch_grid(self.backbone, images))
