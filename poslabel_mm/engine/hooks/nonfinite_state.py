from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.fsdp._common_utils import clean_tensor_name

# The state that a run is resumed from. The trained weights come first: where
# weights are averaged, `state_dict` has the average.
SECTIONS = ('ema_state_dict', 'state_dict', 'optimizer')


def constant_infinities(model: nn.Module) -> dict[str, Tensor]:
    """Saved buffers that hold infinities on purpose, such as a mask of -inf.

    Args:
        model (nn.Module): A model before it trains.

    Returns:
        dict[str, Tensor]: Copies by name, in which nothing is NaN.
    """
    return {
        name: value.clone()
        for name, value in _saved_buffers(model)
        if value.isinf().any() and not value.isnan().any()
    }


def _saved_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # Not of its state_dict: a part that FSDP has wrapped would take itself for a model.
    for prefix, module in model.named_modules():
        for name, value in module.named_buffers(prefix, recurse=False):
            if name.rpartition('.')[2] not in module._non_persistent_buffers_set:
                yield clean_tensor_name(name), value


def nonfinite_entry(checkpoint: dict, constants: Mapping[str, Tensor]) -> str | None:
    """Find NaN or infinity in what a checkpoint holds of a run's state.

    Args:
        checkpoint (dict): A checkpoint in MMEngine's layout. Its weights, their
            average, buffers and optimizer state are checked; of sharded ones
            the part of this process.
        constants (Mapping[str, Tensor]): The result of
            :func:`constant_infinities`. These are accepted as long as they are
            unchanged.

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
            if constant is None or not is_same(constant, value):
                return f'the weights {name}'
    return None


def is_same(constant: Tensor, value: Tensor) -> bool:
    """Whether a saved value is one of :func:`constant_infinities`, in whatever precision.

    Args:
        constant (Tensor): The buffer before training.
        value (Tensor): The buffer in a checkpoint.
    """
    return torch.equal(constant.cpu().to(value.dtype), value.cpu())


def _tensors(node: Any, path: tuple) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, ShardedTensor):
        for shard in node.local_shards():
            yield '.'.join(map(str, path)), shard.tensor
    elif isinstance(node, Tensor):
        yield '.'.join(map(str, path)), node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _tensors(value, path + (key,))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _tensors(value, path + (i,))
