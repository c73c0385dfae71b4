"""A check that a config's model can be built, before a run touches its work dir."""

import torch
from mmengine.config import Config
from torch.overrides import TorchFunctionMode

from poslabel_mm.errors import UserError
from poslabel_mm.launch.build_errors import build_error_line
from poslabel_mm.launch.checks.model import build_model, warnings_only
from poslabel_mm.models.dependent_part import DependentPart


def check_model(cfg: Config) -> None:
    """Build the model without memory for its weights, to find a wrong option.

    A part that cannot be built so, such as one that reads its weights while it is built, ends the
    check: the run itself builds it.

    Args:
        cfg (Config): A training config.

    Raises:
        UserError: If a part of poslabel_mm refuses an option.
        KeyError | TypeError: If a part has no such type or option, or lacks one, as MMEngine
            raises it; :func:`~poslabel_mm.launch.build_errors.build_error_line` has the line.
    """
    if cfg.get('model') is None:
        return
    cfg = cfg.copy()
    # A self-supervised algorithm's target generator reads the weights of another model.
    cfg.model.pop('target_generator', None)
    try:
        with torch.device('meta'), _DropPathOnCPU(), warnings_only():
            model = build_model(cfg)
            for part in model.modules():
                # Of a part that depends on others, such as an auxiliary head of MMSegmentation's.
                if isinstance(part, DependentPart):
                    part.check_model(model)
    except Exception as error:
        if isinstance(error, UserError) or build_error_line(error) is not None:
            raise


class _DropPathOnCPU(TorchFunctionMode):
    """Makes the one kind of tensor whose values backbones read while they are built."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.linspace:
            kwargs.setdefault('device', 'cpu')
        return func(*args, **kwargs)
