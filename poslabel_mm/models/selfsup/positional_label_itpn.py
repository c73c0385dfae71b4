from mmpretrain.models.selfsup import iTPN

from poslabel_mm.models.selfsup.masked_labels import ShuffledLabels
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.masked import patch_grid, visible_tokens


@MODELS.register_module()
class PositionalLabelITPN(ShuffledLabels, iTPN):
    """MMPretrain's iTPN, trained with positional labels.

    The position heads read the last stage's tokens of the visible patches,
    whether the target are pixels or CLIP's features. For CLIP's the masks come
    with the data, as BEiT's, and ``backbone.mask_ratio`` is not used.

    Args:
        *args: The stock ``iTPN``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``iTPN``'s arguments.
    """

    @property
    def draws_masks(self) -> bool:
        # With CLIP's features as target they come with the data.
        return self.backbone.reconstruction_type == 'pixel'

    def read_tokens(self, inputs: tuple, outputs: tuple) -> PatchTokens:
        if self.draws_masks:
            stages, *masking = outputs
            return super().read_tokens(inputs, (stages[-1], *masking))
        images, mask = inputs
        return visible_tokens(outputs[-1], mask, patch_grid(self.backbone, images))
