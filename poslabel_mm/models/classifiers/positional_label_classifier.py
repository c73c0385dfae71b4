from mmpretrain.models.classifiers import ImageClassifier

from poslabel_mm.models.backbone_labels import BackboneLabels
from poslabel_mm.registry import MODELS

# The default of `pos_head`: `copy.deepcopy` calls `__new__` without arguments, which is not None.
_TO_BE_GIVEN = object()


@MODELS.register_module()
class PositionalLabelClassifier(BackboneLabels, ImageClassifier):
    """MMPretrain's image classifier, trained with positional labels (Eq. 6).

    The position heads read the backbone's last patch tokens while it trains
    and are idle in evaluation: outputs, speed and state-dict keys (but for
    ``pos_head.*``) are the stock classifier's.

    Args:
        *args: The stock ``ImageClassifier``'s arguments.
        pos_head (dict | list[dict] | None): One or several position heads.
            With None the stock ``ImageClassifier`` is built in this one's
            place, as by ``get_model('vit-b_apl_in1k', pos_head=None)``.
        pos_neck (dict, optional): What stands between the backbone and the
            position heads, such as ``PatchTokenNeck``, which reads another
            stage's tokens. Defaults to None, the last tokens as they are.
        **kwargs: The stock ``ImageClassifier``'s arguments.

    Raises:
        UserError: If the backbone has no patch grid, or not the neck's stage,
            and as of :class:`PositionHeads`.

    Example:
        >>> model = dict(
        ...     type='poslabel_mm.PositionalLabelClassifier',
        ...     pos_head=dict(type='poslabel_mm.PositionalLabelHead',
        ...                   in_channels=768, grid_size=14))
    """

    stock_loss_name = 'loss_cls'

    def __new__(cls, *args, pos_head: dict | list[dict] | None = _TO_BE_GIVEN, **kwargs):
        if pos_head is None and cls is PositionalLabelClassifier:
            kwargs.pop('pos_neck', None)
            return ImageClassifier(*args, **kwargs)
        return super().__new__(cls)
