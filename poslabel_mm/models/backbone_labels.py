from mmengine.model import ModuleList
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.models.necks import PatchTokenNeck
from poslabel_mm.models.position_heads import PositionHeads, build_part
from poslabel_mm.models.sharded_weights import is_sharded
from poslabel_mm.tokens import PatchTokenReader, PatchTokens
from poslabel_mm.tokens.built import built_tokens
from poslabel_mm.tokens.wrappers import unwrapped


class BackboneLabels(PositionHeads):
    """Position heads on the backbone of a model that is trained with annotations.

    Mixed in to the left of a stock model that has a ``backbone`` and ``loss(inputs,
    data_samples)``. The position heads read the backbone's last patch tokens while it trains and
    are idle in evaluation: outputs, speed and state-dict keys (but for ``pos_head.*``) are the
    stock model's.

    Args:
        *args: The stock model's arguments.
        pos_head (dict | list[dict]): One or several position heads. Required.
        pos_neck (dict, optional): What stands between the backbone and the position heads, such
            as ``poslabel_mm.PatchTokenNeck``, which reads another stage's tokens. Defaults to
            None, the last tokens as they are.
        **kwargs: The stock model's arguments.

    Raises:
        UserError: If there is no ``pos_head``, if the backbone has no patch grid, or not the
            neck's stage, and as of :class:`PositionHeads`.
    """

    def __init__(
        self,
        *args,
        pos_head: dict | list[dict] | None = None,
        pos_neck: dict | None = None,
        **kwargs,
    ) -> None:
        if pos_head is None or (isinstance(pos_head, (dict, list, tuple)) and not pos_head):
            stock = next(cls for cls in type(self).__mro__ if not issubclass(cls, PositionHeads))
            raise options.wrong(
                'model.pos_head',
                pos_head,
                f'is refused: {type(self).__name__} has no pos_head; give it one, or use '
                f'{stock.__name__}',
            )
        super().__init__(*args, pos_head=pos_head, **kwargs)
        key = 'model.pos_neck'
        self.pos_neck = None if pos_neck is None else build_part(pos_neck, key)
        stage = getattr(self.pos_neck, 'stage', None)
        with options.within(key):
            self._token_reader = PatchTokenReader(self.backbone, stage=stage)
        # Any other neck may make tokens of another width and grid.
        keeps_tokens = pos_neck is None or isinstance(self.pos_neck, PatchTokenNeck)
        self._stride = built_tokens(self.backbone, stage).stride if keeps_tokens else None
        if keeps_tokens:
            self._check_fit(stage)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).
            data_samples (list): Their annotations.

        Returns:
            dict[str, Tensor]: The stock losses, one called ``loss`` under the name
            ``stock_loss_name`` (MMEngine logs the sum of all losses as ``loss``). While training
            also what every position head returns.

        Raises:
            UserError: If the patch grid or the token width is not the one that a position head
                was built for, if a position head's loss has the name of a stock loss, or if FSDP
                has sharded a part of a head on its own where ``labelled_tokens`` makes groups.
        """
        if not self.training:
            return self._name_stock_loss(super().loss(inputs, data_samples))
        with self._token_reader:
            losses = self._name_stock_loss(super().loss(inputs, data_samples))
        groups = self.labelled_tokens(self._take_tokens(), inputs, data_samples)
        if type(self).labelled_tokens is not BackboneLabels.labelled_tokens:
            self._check_sharding()
        of_heads = self._position_losses(*groups)
        for name in of_heads.keys() & losses.keys():
            raise UserError(
                f'{type(self).__name__} and a position head both return {name}: leave the '
                'position head out, or register a subclass of it that returns another name'
            )
        return losses | of_heads

    def patch_tokens(self, inputs: Tensor) -> PatchTokens:
        """The tokens that the position heads read, in evaluation too.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width).

        Returns:
            PatchTokens: The patch tokens, past the neck, and their grid; those of padding
            included.
        """
        with self._token_reader:
            self.backbone(inputs)
        return self._take_tokens()

    def position_losses(self, inputs: Tensor) -> dict[str, Tensor]:
        """Position losses and accuracies alone, in evaluation too.

        Args:
            inputs (Tensor): Images of shape (B, 3, height, width), without padding.

        Returns:
            dict[str, Tensor]: What every position head's ``loss`` returns.
        """
        return self._position_losses(self.patch_tokens(inputs))

    def labelled_tokens(
        self, patch_tokens: PatchTokens, inputs: Tensor, data_samples: list
    ) -> list[PatchTokens]:
        """What the position heads are given of a batch; a model of padded images leaves out some.

        Args:
            patch_tokens (PatchTokens): All tokens of the batch, past the neck.
            inputs (Tensor): Its images, of shape (B, 3, height, width).
            data_samples (list): Their annotations.

        Returns:
            list[PatchTokens]: The images in one or several groups. Every image has the same
            weight in the losses.
        """
        return [patch_tokens]

    def _take_tokens(self) -> PatchTokens:
        patch_tokens = self._token_reader.take()
        return patch_tokens if self.pos_neck is None else self.pos_neck(patch_tokens)

    def _check_sharding(self) -> None:
        """Refuse parts of a head whose weights processes would gather once a group.

        The processes must gather as often as each other, and each has as many groups as its
        images have shapes.
        """
        heads = self.pos_head if isinstance(self.pos_head, ModuleList) else [self.pos_head]
        for head in heads:
            if any(part is not head and is_sharded(part) for part in head.modules()):
                raise UserError(
                    f'FSDP has sharded layers of {type(unwrapped(head)).__name__} one by one, and '
                    f'the batches of {type(self).__name__} have images of several shapes: let the '
                    'auto_wrap_policy wrap no part of a position head, or use DDPStrategy'
                )
