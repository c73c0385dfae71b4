from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# What a run goes on from, the weights that it trains first: of a run with an
# average of its weights, `state_dict` has the average.
SECTIONS = ('ema_state_dict', 'state_dict', 'optimizer')


def constant_infinities(model: nn.Module) -> dict[str, Tensor]:
    """Saved buffers that hold infinities on purpose, such as a mask of -inf.

    Args:
        model (nn.Module): A model before it trains.

    Returns:
        dict[str, Tensor]: Copies by name, in which nothing is NaN.
    """
    parameters = {name for name, _ in model.named_parameters()}
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if name not in parameters
        and isinstance(value, Tensor)
        and value.isinf().any()
        and not value.isnan().any()
    }


def nonfinite_entry(checkpoint: dict, constants: Mapping[str, Tensor]) -> str | None:
    """Find NaN or infinity in what a checkpoint holds of a run's state.

    Args:
        checkpoint (dict): Of MMEngine's layout; weights, the average of the
            weights, buffers and optimizer state are looked at.
        constants (Mapping[str, Tensor]): The result of
            :func:`constant_infinities`, which is passed over as long as it
            is unchanged.

    Returns:
        str | None: The first such entry in words; None if all is finite.
    """
    for section in SECTIONS:
        for name, value in _tensors(checkpoint.get(section), ()):
            if torch.isfinite(value).all():
                continue
            if section == 'optimizer':
                return f'the optimizer state {name}'
            if section == 'ema_state_dict':
                name = name.removeprefix('module.')
            constant = constants.get(name)
            if constant is None or not torch.equal(constant.cpu(), value.cpu()):
                return f'the weights {name}'
    return None


def _tensors(node: Any, path: tuple) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield '.'.join(map(str, path)), node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _tensors(value, path + (key,))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _tensors(value, path + (i,))
