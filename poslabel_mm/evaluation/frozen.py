"""Looking at a model in the middle of its training without leaving a trace."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Have a model in evaluation, without gradient, and put everything back.

    Its modules go back into training or evaluation as they were, and python's, numpy's and torch's
    generators of random numbers to their states.

    Args:
        model (nn.Module): Any model.
    """
    training = {module: module.training for module in model.modules()}
    with _kept_random_state(), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, mode in training.items():
                module.training = mode


@contextmanager
def _kept_random_state() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside of what trains it on several processes or averages over its views."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def call_with_whole_weights(model: nn.Module, function: Callable[..., Any], *args) -> Any:
    """Call a function with a model, wrapped or not, whose weights are whole meanwhile.

    Args:
        model (nn.Module): The model.
        function (callable): Gets the model inside of its wrapper, and the arguments.
        *args: The arguments.

    Returns:
        Any: What the function returns.
    """
    # MMPretrain's models take seconds to import, and the hooks are imported without them.
    from poslabel_mm.models.sharded_weights import inside_forward

    return inside_forward(model, partial(function, inner_model(model), *args))
