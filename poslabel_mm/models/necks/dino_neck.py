import math
from functools import cache
from weakref import WeakSet

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from poslabel_mm import options
from poslabel_mm.models.heads.base_head import DEFAULT_INIT
from poslabel_mm.models.schedules import MAX_EPOCHS, in_first_epochs
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class DINONeck(BaseModule):
    """DINO's projection: an MLP, and the cosines of its output and K learned prototypes.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021), call it
    the head: linear layers with GELU between them, L2 normalisation, and a last layer without bias
    whose weights are normalised, row by row.

    Args:
        in_channels (int): Channels C of what the backbone gives, one vector an image.
        out_channels (int): Prototypes K. Defaults to 65536.
        hid_channels (int): Width of the MLP's hidden layers. Defaults to 2048.
        bottleneck_channels (int): Width of its output. Defaults to 256.
        num_layers (int): Its linear layers. Defaults to 3.
        freeze_last_layer (float): Epochs at the beginning of the run in which no optimizer changes
            the prototypes, not by weight decay either. It has to be less than the run has; without
            a run, or in one that is not longer, the prototypes train from the start. Defaults to
            1.
        init_cfg (dict | list[dict], optional): MMEngine initialisation. Defaults to a truncated
            normal of standard deviation 0.02 with zero biases; the prototypes are drawn as the
            weights of a ``torch.nn.Linear``.

    Raises:
        UserError: Naming the option that is of the wrong type or out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 65536,
        hid_channels: int = 2048,
        bottleneck_channels: int = 256,
        num_layers: int = 3,
        freeze_last_layer: float = 1,
        init_cfg: dict | list[dict] | None = DEFAULT_INIT,
    ) -> None:
        super().__init__(options.init_cfg('init_cfg', init_cfg))
        hidden = options.whole_number('hid_channels', hid_channels)
        bottleneck = options.whole_number('bottleneck_channels', bottleneck_channels)
        self.freeze_last_layer = options.number(
            'freeze_last_layer', freeze_last_layer, 0, MAX_EPOCHS
        )
        self.in_channels = options.whole_number('in_channels', in_channels)
        widths = [
            self.in_channels,
            *[hidden] * (options.whole_number('num_layers', num_layers) - 1),
            bottleneck,
        ]
        layers = []
        for width, next_width in zip(widths, widths[1:]):
            layers += [nn.Linear(width, next_width), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.out_channels = options.whole_number('out_channels', out_channels)
        self.prototypes = nn.Parameter(torch.empty(self.out_channels, bottleneck))
        nn.init.kaiming_uniform_(self.prototypes, a=math.sqrt(5))

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
        """Compare images with the prototypes.

        Args:
            inputs (Tensor | tuple[Tensor]): Shape (B, C); of several outputs of a backbone, the
                last.

        Returns:
            tuple[Tensor]: The cosines, of shape (B, K).
        """
        x = inputs[-1] if isinstance(inputs, (tuple, list)) else inputs
        prototypes = F.normalize(self.prototypes, dim=-1)
        if self._freezes():
            # A gradient of zero, not none, which distributed training would wait for.
            prototypes = prototypes.detach() + 0 * prototypes
        return (F.linear(F.normalize(self.mlp(x), dim=-1), prototypes),)

    @torch.compiler.disable
    def _freezes(self) -> bool:
        frozen = in_first_epochs(self.freeze_last_layer)
        if frozen:
            _drop_frozen_gradients()
            _FROZEN.add(self)
        else:
            _FROZEN.discard(self)
        return frozen


#: Necks whose prototypes the next step leaves alone. The neck does not know the optimizer.
_FROZEN: WeakSet[DINONeck] = WeakSet()


@cache
def _drop_frozen_gradients() -> None:
    """Have every optimizer, right before a step, pass over prototypes that are frozen.

    With a gradient of zero, weight decay would still shrink them and Adam would count the step.
    """

    def drop(*_) -> None:
        for neck in _FROZEN:
            neck.prototypes.grad = None

    register_optimizer_step_pre_hook(drop)
