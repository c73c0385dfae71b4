from mmpretrain.models.selfsup import MFF

from poslabel_mm.models.selfsup.masked_labels import ShuffledLabels
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalLabelMFF(ShuffledLabels, MFF):
    """MMPretrain's MFF, trained with positional labels.

    The position heads read the fused tokens of the visible patches.

    Args:
        *args: The stock ``MFF``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``MFF``'s arguments.
    """
