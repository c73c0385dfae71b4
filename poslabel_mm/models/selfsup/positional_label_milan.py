from mmpretrain.models.selfsup import MILAN

from poslabel_mm.models.selfsup.masked_labels import MaskedLabels
from poslabel_mm.models.selfsup.non_square_grid import lay_grid
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.masked import built_grid, tells_grid


@MODELS.register_module()
class PositionalLabelMILAN(MaskedLabels, MILAN):
    """MMPretrain's MILAN, trained with positional labels.

    The position heads read the encoder's tokens of the visible patches.

    Args:
        *args: The stock ``MILAN``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``MILAN``'s arguments.

    Raises:
        UserError: As of :class:`MaskedLabels`, and if the patch grid is not
            square.
    """

    draws_masks = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.pos_head is not None or tells_grid(self.backbone):
            lay_grid(self.backbone, self.neck, self.head)

    def read_tokens(self, inputs: tuple, outputs: tuple) -> PatchTokens:
        tokens, _, ids_keep, _ = outputs
        return PatchTokens(tokens[:, 1:], built_grid(self.backbone), ids_keep)
