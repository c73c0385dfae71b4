"""A saved model, loaded as a test loads it."""

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.checkpoint import check_weights
from poslabel_mm.launch.checks.model import build_model, warnings_only


def load_saved_model(cfg: Config, checkpoint: str) -> tuple[nn.Module, dict]:
    """Load a model with the weights of a checkpoint.

    Args:
        cfg (Config): A complete config; it is not changed.
        checkpoint (str): The checkpoint, checked as for a test.

    Returns:
        tuple[nn.Module, dict]: The model, in evaluation mode on this machine's device, and the
        checkpoint's content.

    Raises:
        UserError: If the config has no model, or the weights are not of this model.
    """
    if cfg.get('model') is None:
        raise UserError(f'{cfg.filename} has no model')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    cfg = cfg.copy()
    cfg.pop('runner_type', None)  # one file is read, whatever the strategy of the training
    cfg.model.pop('target_generator', None)  # of a loss alone, and with weights of its own
    with warnings_only():
        check_weights(checkpoint, cfg)
        model = build_model(cfg)
        content = load_checkpoint(model, checkpoint, map_location='cpu', logger='silent')
    model.to(get_device()).eval()
    return model, content
