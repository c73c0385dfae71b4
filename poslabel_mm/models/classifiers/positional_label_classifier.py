from typing import Dict, List, Optional, Union

from mmengine.model import ModuleList
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import PatchTokenReader, PatchTokens


def _as_list(pos_head: nn.Module) -> List[nn.Module]:
    return list(pos_head) if isinstance(pos_head, ModuleList) else [pos_head]


def _build(pos_head: Union[dict, nn.Module]) -> nn.Module:
    if isinstance(pos_head, nn.Module):
        return pos_head
    return MMPRETRAIN_MODELS.build(pos_head)


@MODELS.register_module()
class PositionalLabelClassifier(ImageClassifier):
    """MMPretrain's image classifier, trained with positional labels (Eq. 6).

    The position heads read the backbone's last patch tokens while it trains
    and are idle in evaluation: outputs, speed and state-dict keys (but for
    ``pos_head.*``) are the stock classifier's.

    Args:
        *args: The stock ``ImageClassifier``'s arguments.
        pos_head (dict | list[dict]): One or several position heads.
        pos_neck (dict, optional): What stands between the backbone and the
            position heads, such as ``PatchTokenNeck``, which reads another
            stage's tokens. Defaults to None, the last tokens as they are.
        **kwargs: The stock ``ImageClassifier``'s arguments.

    Raises:
        UserError: If the backbone has no patch grid, or not the neck's stage.

    Example:
        >>> model = dict(
        ...     type='poslabel_mm.PositionalLabelClassifier',
        ...     pos_head=dict(type='poslabel_mm.PositionalLabelHead',
        ...                   in_channels=768, grid_size=14))
    """

    def __init__(self,
                 *args,
                 pos_head: Union[dict, List[dict]],
                 pos_neck: Optional[dict] = None,
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not pos_head:
            raise UserError('PositionalLabelClassifier has no pos_head; give '
                            'it one, or use ImageClassifier')
        if isinstance(pos_head, (list, tuple)):
            self.pos_head = ModuleList(map(_build, pos_head))
        else:
            self.pos_head = _build(pos_head)
        self.pos_neck = pos_neck and _build(pos_neck)
        self._token_reader = PatchTokenReader(
            self.backbone, stage=getattr(self.pos_neck, 'stage', None))

    def init_weights(self) -> None:
        # A model-wide `init_cfg` reaches every layer there is. The position
        # heads stand aside while it draws, for the stock part to draw what it
        # would without them; a checkpoint may hold weights for them, though.
        cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [
            self.init_cfg or dict()
        ]
        loads_checkpoint = any(cfg.get('type') == 'Pretrained' for cfg in cfgs)
        pos_head = self.pos_head
        if not loads_checkpoint:
            del self.pos_head
        for head in _as_list(pos_head):
            head.init_weights()
        super().init_weights()
        self.pos_head = pos_head

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

    def position_losses(self, inputs: Tensor) -> Dict[str, Tensor]:
        """Position losses and accuracies alone, in evaluation too.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).

        Returns:
            dict[str, Tensor]: What every position head's ``loss`` returns.
        """
        return self._position_losses(self.patch_tokens(inputs))

    def _take_tokens(self) -> PatchTokens:
        patch_tokens = self._token_reader.take()
        return patch_tokens if self.pos_neck is None else self.pos_neck(
            patch_tokens)

    def _position_losses(self, patch_tokens: PatchTokens) -> Dict[str, Tensor]:
        losses = dict()
        for head in _as_list(self.pos_head):
            for name, value in head.loss(patch_tokens).items():
                if name in losses:
                    raise UserError(
                        f'two position heads return {name}: a classifier takes '
                        'one head of a kind')
                losses[name] = value
        return losses

    @staticmethod
    def _name_stock_loss(losses: Dict[str, Tensor]) -> Dict[str, Tensor]:
        if 'loss' in losses:
            losses['loss_cls'] = losses.pop('loss')
        return losses
