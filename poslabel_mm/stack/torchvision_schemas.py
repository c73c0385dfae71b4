"""torchvision where its compiled operators do not load."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_schemas: Any | None = None


@contextmanager
def with_schemas() -> Iterator[None]:
    """A context in which torchvision can be imported without its library.

    Cause: torchvision registers meta kernels for ``nms`` and ``qnms`` even if
    its library, built for CUDA, cannot load beside a CPU torch, and then fails with
    "operator torchvision::nms does not exist". Their schemas alone are enough;
    the operators themselves stay unavailable, and nothing here calls them.
    Remove when torchvision imports without its library.
    """
    global _schemas
    try:
        yield
    except RuntimeError as error:
        if 'torchvision::nms does not exist' not in str(error):
            raise
        import torch

        # The modules that the failed import left behind are incomplete.
        for name in [name for name in sys.modules if name.startswith('torchvision.')]:
            del sys.modules[name]
        # Kept for the life of the process: the schemas go when it is deleted.
        _schemas = torch.library.Library('torchvision', 'DEF')
        for operator in 'nms', 'qnms':
            _schemas.define(
                f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
            )
        module = sys.modules['torchvision']
        loader = module.__spec__.loader
        type(loader).exec_module(loader, module)
