from mmpretrain.models.selfsup import BEiT

from poslabel_mm.models.selfsup.masked_labels import MaskedLabels
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.masked import patch_grid, visible_tokens


@MODELS.register_module()
class PositionalLabelBEiT(MaskedLabels, BEiT):
    """MMPretrain's BEiT v1 and v2, trained with positional labels.

    The position heads read the encoder's last tokens where the patch is
    visible. Its relative position bias tells them of the place; leave it out
    with ``use_shared_rel_pos_bias=False`` for the labels alone to do so.

    Args:
        *args: The stock ``BEiT``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``BEiT``'s arguments.
    """

    def read_tokens(self, inputs: tuple, outputs: tuple) -> PatchTokens:
        images, mask = inputs
        return visible_tokens(outputs[-1], mask, patch_grid(self.backbone, images))
