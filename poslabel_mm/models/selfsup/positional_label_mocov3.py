from mmpretrain.models.selfsup import MoCoV3

from poslabel_mm.models.selfsup.view_labels import ViewLabels
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalLabelMoCoV3(ViewLabels, MoCoV3):
    """MMPretrain's MoCo v3, trained with positional labels.

    The position heads read all patch tokens of both views; losses and
    accuracies are means over the two. The contrastive loss is ``loss_view``.

    Args:
        *args: The stock ``MoCoV3``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``MoCoV3``'s arguments.
    """
