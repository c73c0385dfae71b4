from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.necks import PatchTokenNeck
from poslabel_mm.models.position_heads import PositionHeads, build_part
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokenReader, PatchTokens

# The default of `pos_head`: `copy.deepcopy` calls `__new__` without arguments, which is not None.
_TO_BE_GIVEN = object()


@MODELS.register_module()
class PositionalLabelClassifier(PositionHeads, ImageClassifier):
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

    def __init__(
        self, *args, pos_head: dict | list[dict], pos_neck: dict | None = None, **kwargs
    ) -> None:
        if pos_head is None or (isinstance(pos_head, (dict, list, tuple)) and not pos_head):
            raise options.wrong(
                'model.pos_head',
                pos_head,
                'is refused: '
                'PositionalLabelClassifier has no pos_head; '
                'give it one, or use ImageClassifier',
            )
        super().__init__(*args, pos_head=pos_head, **kwargs)
        key = 'model.pos_neck'
        self.pos_neck = None if pos_neck is None else build_part(pos_neck, key)
        stage = getattr(self.pos_neck, 'stage', None)
        with options.within(key):
            self._token_reader = PatchTokenReader(self.backbone, stage=stage)
        if pos_neck is None or isinstance(self.pos_neck, PatchTokenNeck):
            self._check_fit(stage)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).
            data_samples (list[DataSample]): Their annotations.

        Returns:
            dict[str, Tensor]: The stock head's losses, its ``loss`` under the
            name ``loss_cls`` (MMEngine logs the sum of all losses as
            ``loss``). While training also what every position head returns.

        Raises:
            UserError: If the patch grid or the token width is not the one
                that a position head was built for.
        """
        if not self.training:
            return self._name_stock_loss(super().loss(inputs, data_samples))
        with self._token_reader:
            losses = self._name_stock_loss(super().loss(inputs, data_samples))
        losses.update(self._position_losses(self._take_tokens()))
        return losses

    def patch_tokens(self, inputs: Tensor) -> PatchTokens:
        """The tokens that the position heads read, in evaluation too.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).

        Returns:
            PatchTokens: The patch tokens, past the neck, and their grid.
        """
        with self._token_reader:
            self.extract_feat(inputs, stage='backbone')
        return self._take_tokens()

    def position_losses(self, inputs: Tensor) -> dict[str, Tensor]:
        """Position losses and accuracies alone, in evaluation too.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).

        Returns:
            dict[str, Tensor]: What every position head's ``loss`` returns.
        """
        return self._position_losses(self.patch_tokens(inputs))

    def _take_tokens(self) -> PatchTokens:
        patch_tokens = self._token_reader.take()
        return patch_tokens if self.pos_neck is None else self.pos_neck(patch_tokens)
