"""The model of a config, built to be compared with a checkpoint."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config, with weights that are not initialised.

    No random weights are drawn: what torch would draw holds whatever was in the memory.

    Args:
        cfg (Config): A complete config; it is not changed.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = copy.deepcopy(cfg.model)
    # Test-time augmentation wraps the model that the checkpoint is of.
    model_cfg = model_cfg.get('module', model_cfg)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with _NothingDrawn():
        return MODELS.build(model_cfg)


class _NothingDrawn(TorchFunctionMode):
    """Skips the drawing of random weights, most of the time that a large model takes to build."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs['tensor']
        return func(*args, **kwargs)


_DRAWS = {
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.trunc_normal_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
    nn.init.xavier_normal_,
    nn.init.xavier_uniform_,
}


@contextmanager
def warnings_only() -> Iterator[None]:
    """A context in which MMEngine logs warnings alone.

    The Runner logs the same lines, one for every parameter, when it builds its own.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)
