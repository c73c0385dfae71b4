"""Gradients that are accumulated and have not updated the weights yet."""

import torch.distributed
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

Gradients = dict[str, Tensor]


def are_pending(runner) -> bool:
    """Whether gradients of earlier iterations wait for the next update."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return not all(one.should_update() for one in wrappers if isinstance(one, OptimWrapper))


def gather(runner) -> list[Gradients] | None:
    """Collect what the processes have accumulated, each from its own images.

    Returns:
        list[dict[str, Tensor]] | None: The gradients of each rank, on the CPU; None in all
        processes but the main one.
    """
    own = {
        name: parameter.grad.detach().cpu()
        for name, parameter in _model(runner).named_parameters()
        if parameter.grad is not None
    }
    if get_world_size() == 1:
        return [own]
    gathered = [None] * get_world_size() if is_main_process() else None
    torch.distributed.gather_object(own, gathered)
    return gathered


def restore(runner, gathered: list[Gradients]) -> None:
    """Give this process the gradients that :func:`gather` collected of its rank."""
    if len(gathered) != get_world_size():
        runner.logger.warning(
            f'gradients were accumulated by {len(gathered)} processes when the checkpoint was '
            f'saved, and there are {get_world_size()} now: they are discarded'
        )
        return
    own = gathered[get_rank()]
    for name, parameter in _model(runner).named_parameters():
        if name in own:
            parameter.grad = own[name].to(parameter.device)
    runner.logger.info('restored the accumulated gradients of the checkpoint')


def _model(runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
