from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP shards the weights of a module on their own."""
    return isinstance(module, FullyShardedDataParallel)


def inside_forward(module: nn.Module, function: Callable[[], Any]) -> Any:
    """Call a function where the module's weights are whole.

    FSDP gathers the weights of a module that it wraps before its forward pass and frees them
    after it. What is read of them otherwise is one process's shard.

    Args:
        module (nn.Module): A module, wrapped or not.
        function (callable): What to call. What it returns must not share the memory of the
            weights.

    Returns:
        Any: What the function returns. Gradients reach the weights through it.
    """
    if not is_sharded(module):
        return function()
    wrapped = module.module
    before = {name: value for name, value in vars(wrapped).items() if name == 'forward'}

    def call() -> Any:
        # The function may call the module's own forward.
        del wrapped.forward
        vars(wrapped).update(before)
        return function()

    wrapped.forward = call
    return module()


def whole_linear(linear: nn.Linear) -> nn.Linear | SimpleNamespace:
    """A linear, or what stands in for one that FSDP has sharded on its own."""
    if not is_sharded(linear):
        return linear

    def copies():
        return linear.weight.clone(), None if linear.bias is None else linear.bias.clone()

    weight, bias = inside_forward(linear, copies)
    return SimpleNamespace(
        weight=weight, bias=bias, in_features=linear.in_features, out_features=linear.out_features
    )
