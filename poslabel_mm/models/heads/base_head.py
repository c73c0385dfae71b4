"""Base of all heads: their weight in the loss, their first weights, the width of their tokens."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.models.random_state import independent_random_state
from poslabel_mm.models.schedules import schedule

DEFAULT_INIT = dict(type='TruncNormal', layer='Linear', std=0.02)

# Beyond any use, and within what a loss in float32 can be multiplied by.
MAX_LOSS_WEIGHT = 1e6
# 4 GiB in float32, about a thousand times the largest of the paper's heads.
MAX_WEIGHTS = 2**30


class BaseHead(BaseModule):
    """A head of patch tokens.

    Args:
        in_channels (int): Channels of a token.
        loss_weight (float | dict): What the loss is multiplied by (λ in Eq. 6), or a schedule of
            it, see :func:`poslabel_mm.models.schedules.schedule`.
        init_cfg (dict | list[dict], optional): MMEngine initialisation.

    Attributes:
        loss_name (str): What ``loss`` calls its loss.

    Raises:
        UserError: Naming the option that is of the wrong type or out of range.
    """

    loss_name: str = 'loss'

    def __init__(
        self,
        in_channels: int,
        loss_weight: float | dict,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(options.init_cfg('init_cfg', init_cfg))
        self.in_channels = options.whole_number('in_channels', in_channels)
        self._loss_weight = schedule('loss_weight', loss_weight, 0, MAX_LOSS_WEIGHT)

    @property
    def loss_weight(self) -> float:
        """λ in Eq. 6, at the present iteration where it follows a schedule."""
        return self._loss_weight()

    def init_weights(self) -> None:
        if not self.is_init:
            with independent_random_state(type(self).__name__):
                super().init_weights()

    def check_backbone(self, key: str, backbone: nn.Module) -> None:
        """Refuse a backbone that cannot be trained with this head. By default none is.

        Args:
            key (str): Where the head stands in the config.
            backbone (nn.Module): The backbone, wrapped or not.

        Raises:
            UserError: With the key and the way out.
        """

    def check_width(self, tokens: Tensor) -> None:
        """Refuse tokens (B, n, C) of another width than this head was built for.

        Raises:
            UserError: Naming both and the argument to change.
        """
        if tokens.shape[-1] != self.in_channels:
            raise UserError(
                f'The patch tokens have {tokens.shape[-1]} channels but {type(self).__name__} '
                f'was built with in_channels={self.in_channels}; set '
                f'in_channels={tokens.shape[-1]} in its pos_head'
            )


def check_size(num_weights: int, widths: dict[str, int]) -> None:
    """Refuse a head that is too large for any memory.

    Args:
        num_weights (int): Of its linears.
        widths (dict[str, int]): The widths that make it so large, by option; the largest is named.

    Raises:
        UserError: Naming the option.
    """
    if num_weights > MAX_WEIGHTS:
        raise options.OptionError(
            max(widths, key=widths.get),
            ' is too large: the head would have more than 2**30 weights',
        )
