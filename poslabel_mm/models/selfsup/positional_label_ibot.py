from poslabel_mm.models.selfsup.ibot import IBOT
from poslabel_mm.models.selfsup.view_labels import ViewLabels
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalLabelIBOT(ViewLabels, IBOT):
    """:class:`IBOT`, trained with positional labels.

    The position heads read all patch tokens of every crop that the student sees, masked or not; of
    a masked patch they see its encoding and what is around it. Losses, accuracies and labels of
    local crops are as of :class:`~.positional_label_dino.PositionalLabelDINO`.

    Args:
        *args: The arguments of :class:`IBOT`.
        pos_head (dict | list[dict], optional): One or several position heads. Defaults to None:
            :class:`IBOT`.
        **kwargs: The arguments of :class:`IBOT`.
    """
