from poslabel_mm.models.selfsup.dino import DINO
from poslabel_mm.models.selfsup.view_labels import ViewLabels
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalLabelDINO(ViewLabels, DINO):
    """:class:`DINO`, trained with positional labels.

    The position heads read all patch tokens of every crop that the student sees; losses and
    accuracies are means over the crops. A label is the place of a patch in its crop: for local
    crops, which have another patch grid, heads take ``on_grid_mismatch='rescale'``.

    Args:
        *args: The arguments of :class:`DINO`.
        pos_head (dict | list[dict], optional): One or several position heads. Defaults to None:
            :class:`DINO`.
        **kwargs: The arguments of :class:`DINO`.
    """
