"""grad-cam under MMPretrain's ``vis_cam.py``."""

import functools
from collections.abc import Callable


def mend_grad_cam() -> None:
    """Have grad-cam's classes accept ``use_cuda``, which ``vis_cam.py`` passes.

    Cause: grad-cam 1.5 takes the device from the model and removed the argument; MMPretrain 1.2
    passes it. Called before that tool alone. Remove with the openmmlab stack.
    """
    try:
        from pytorch_grad_cam.base_cam import BaseCAM
    except ImportError:
        return  # the tool says what to install
    for kind in BaseCAM.__subclasses__():
        if not hasattr(kind.__init__, 'takes_use_cuda'):
            kind.__init__ = _without_use_cuda(kind.__init__)


def _without_use_cuda(stock: Callable) -> Callable:

    @functools.wraps(stock)
    def init(self, *args, use_cuda: bool = False, **kwargs) -> None:
        stock(self, *args, **kwargs)

    init.takes_use_cuda = True
    return init
