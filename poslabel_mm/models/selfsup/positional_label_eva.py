from mmpretrain.models.selfsup import EVA

from poslabel_mm.models.selfsup.masked_labels import ShuffledLabels
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalLabelEVA(ShuffledLabels, EVA):
    """MMPretrain's EVA pre-training, with positional labels.

    The position heads read the encoder's tokens of the visible patches.

    Args:
        *args: The stock ``EVA``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``EVA``'s arguments.
    """
