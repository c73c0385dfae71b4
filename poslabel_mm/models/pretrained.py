from mmengine.model import BaseModule, PretrainedInit


def loads_checkpoint(module: BaseModule) -> bool:
    """Whether a module's ``init_cfg`` names a checkpoint, read as MMEngine reads it.

    Args:
        module (BaseModule): Its ``init_cfg`` is a dict, a list of dicts or None.
    """
    init_cfgs = module.init_cfg or []
    if isinstance(init_cfgs, dict):
        init_cfgs = [init_cfgs]
    return any(cfg.get('type') in ('Pretrained', PretrainedInit) for cfg in init_cfgs)
