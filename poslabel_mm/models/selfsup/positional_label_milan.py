from mmpretrain.models.selfsup import MILAN

from poslabel_mm.masked_tokens import check_mask_ratio, patch_grid
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens
from .masked_labels import MaskedLabels
from .non_square_grid import lay_grid


@MODELS.register_module()
class PositionalLabelMILAN(MaskedLabels, MILAN):
    """MMPretrain's MILAN, trained with positional labels.

    The position heads read the encoder's tokens of the visible patches.

    Args:
        *args: The stock ``MILAN``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``MILAN``'s arguments.

    Raises:
        UserError: If ``backbone.mask_ratio`` leaves no visible patch for the
            position heads, or the patch grid is not square.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.pos_head is not None:
            check_mask_ratio(self.backbone.mask_ratio,
                             self.backbone.num_patches)
        lay_grid(self.backbone, self.neck, self.head)

    def read_tokens(self, inputs: tuple, outputs: tuple) -> PatchTokens:
        tokens, _, ids_keep, _ = outputs
        return PatchTokens(tokens[:, 1:], patch_grid(self.backbone, inputs[0]),
                           ids_keep)
