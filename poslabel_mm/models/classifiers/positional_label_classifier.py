from typing import Dict, List

from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from poslabel_mm.models.position_heads import PositionHeads
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokenReader, PatchTokens


@MODELS.register_module()
class PositionalLabelClassifier(PositionHeads, ImageClassifier):
    """MMPretrain's image classifier, trained with positional labels (Eq. 6).

    The position heads read the backbone's last patch tokens while it trains
    and are idle in evaluation: outputs, speed and state-dict keys (but for
    ``pos_head.*``) are the stock classifier's.

    Args:
        *args: The stock ``ImageClassifier``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        **kwargs: The stock ``ImageClassifier``'s arguments.

    Example:
        >>> model = dict(
        ...     type='poslabel_mm.PositionalLabelClassifier',
        ...     pos_head=dict(type='poslabel_mm.PositionalLabelHead',
        ...                   in_channels=768, grid_size=14))
    """

    stock_loss_name = 'loss_cls'

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._token_reader = PatchTokenReader(self.backbone)

    def loss(self, inputs: Tensor,
             data_samples: List[DataSample]) -> Dict[str, Tensor]:
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
        losses.update(self._position_losses(self._token_reader.take()))
        return losses

    def patch_tokens(self, inputs: Tensor) -> PatchTokens:
        """The tokens that the position heads read, in evaluation too.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).

        Returns:
            PatchTokens: The backbone's last patch tokens and their grid.
        """
        with self._token_reader:
            self.extract_feat(inputs, stage='backbone')
        return self._token_reader.take()

    def position_losses(self, inputs: Tensor) -> Dict[str, Tensor]:
        """Position losses and accuracies alone, in evaluation too.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).

        Returns:
            dict[str, Tensor]: What every position head's ``loss`` returns.
        """
        return self._position_losses(self.patch_tokens(inputs))
