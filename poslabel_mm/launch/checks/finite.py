"""A check that a checkpoint holds no NaN and no infinity, as a failed training leaves them."""

import re

import torch
from torch import Tensor, nn

from poslabel_mm.engine.hooks.nonfinite_state import constant_infinities, is_same
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.opened_checkpoint import Checkpoint
from poslabel_mm.launch.checks.wording import first_names


class FiniteCheck:
    """Refuses NaN and infinity in checkpoints of one model.

    Buffers that hold infinities on purpose, such as a mask of -inf, are accepted where the model
    has the same ones, as in
    :class:`~poslabel_mm.engine.hooks.nonfinite_loss_hook.NonFiniteLossHook`. Where the model has
    no tensor of that name and shape, a mask of 0 and infinity is accepted.

    Args:
        module (nn.Module): The model, or a part of it, before it loads a checkpoint.
        prefix (str): What the keys of the module's own weights begin with. Defaults to ''.
    """

    def __init__(self, module: nn.Module, prefix: str = '') -> None:
        self._constants = constant_infinities(module)
        self._shapes = {name: value.shape for name, value in module.state_dict().items()}
        self._prefix = prefix

    def check_weights(self, checkpoint: Checkpoint) -> None:
        """Check what MMEngine reads the weights from.

        Args:
            checkpoint (Checkpoint): The checkpoint.

        Raises:
            UserError: With the names of those that are not finite.
        """
        self._check(checkpoint.path, checkpoint.weights, '')

    def check_averaged(self, checkpoint: Checkpoint) -> None:
        """Check the averaged weights (EMA), which a resumed run continues to average.

        Args:
            checkpoint (Checkpoint): The checkpoint; without averaged weights nothing is checked.

        Raises:
            UserError: With the names of those that are not finite.
        """
        averaged = checkpoint.content.get('ema_state_dict')
        if isinstance(averaged, dict):
            self._check(checkpoint.path, averaged, 'ema_state_dict.')

    def _check(self, path: str, weights: dict, section: str) -> None:
        wrong = [
            section + name
            for name, value in weights.items()
            if isinstance(value, Tensor)
            and _has_non_finite(value)
            and not self._is_meant(name, value)
        ]
        if wrong:
            raise UserError(
                f'checkpoint {path} holds NaN or infinity in {first_names(wrong)}: its training '
                'has failed; use an earlier checkpoint'
            )

    def _is_meant(self, name: str, value: Tensor) -> bool:
        name = re.sub(r'^module\.', '', name)
        own = name[len(self._prefix) :] if name.startswith(self._prefix) else None
        if self._shapes.get(own) == value.shape:
            return own in self._constants and is_same(self._constants[own], value)
        return not value[value.isfinite()].any() and not value.isnan().any()


def _has_non_finite(value: Tensor) -> bool:
    if value.numel() == 0:
        return False
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False
    # The extremes are NaN if a value is; this takes a tenth of isfinite's time.
    return not torch.stack(value.aminmax()).isfinite().all()
