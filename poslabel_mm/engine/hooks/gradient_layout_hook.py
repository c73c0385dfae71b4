from functools import partial

from mmengine.hooks import Hook
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from poslabel_mm.registry import HOOKS


@HOOKS.register_module()
class GradientLayoutHook(Hook):
    """Gives gradients the strides of their parameters in distributed training.

    Along a dimension of size 1 a stride has no meaning and any value. The
    gradient of a ``(1, 1, C)`` class token is a slice of that of all tokens if
    a batch has one image, and keeps its strides; ``DistributedDataParallel``
    takes that for another layout in memory and warns. No value is changed or
    copied. This project's tools add the hook to distributed training.
    """

    def before_train(self, runner) -> None:
        if not isinstance(runner.model, DistributedDataParallel):
            return
        for parameter in runner.model.parameters():
            if parameter.requires_grad and 1 in parameter.shape:
                parameter.register_hook(partial(with_strides, parameter.stride()))


def with_strides(strides: tuple[int, ...], tensor: Tensor) -> Tensor:
    """The same elements with other strides along dimensions of size 1.

    Args:
        strides (tuple[int, ...]): Those wanted, one for each dimension.
        tensor (Tensor): Any tensor.

    Returns:
        Tensor: A view of it, or itself if strides differ elsewhere.
    """
    if all(
        size == 1 or own == wanted
        for size, own, wanted in zip(tensor.shape, tensor.stride(), strides)
    ):
        return tensor.as_strided(tensor.shape, strides)
    return tensor
