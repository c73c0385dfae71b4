from mmpretrain.models.selfsup import CAE

from poslabel_mm.models.selfsup.masked_labels import MaskedLabels
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.masked import patch_grid, visible_indices


@MODELS.register_module()
class PositionalLabelCAE(MaskedLabels, CAE):
    """MMPretrain's CAE, trained with positional labels.

    The position heads read the encoder's tokens of the visible patches.

    Args:
        *args: The stock ``CAE``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``CAE``'s arguments.
    """

    def read_tokens(self, inputs: tuple, outputs) -> PatchTokens:
        images, mask = inputs
        return PatchTokens(
            outputs[:, 1:], patch_grid(self.backbone, images), visible_indices(mask)
        )
