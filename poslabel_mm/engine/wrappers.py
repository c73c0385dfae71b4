"""How a config wraps its model to train it on several processes."""

import copy

from mmengine._strategy import DDPStrategy, FSDPStrategy
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODEL_WRAPPERS, STRATEGIES
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from poslabel_mm.errors import UserError

# MMEngine's expansion of 'full'.
FULL = dict(
    state_dict_type='FULL_STATE_DICT',
    state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
    optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True),
)


def check_wrapper(cfg: Config) -> None:
    """Refuse a sharded model in the Runner, and let one process train unwrapped.

    Args:
        cfg (Config): A config with its ``launcher``. A ``strategy`` that needs several processes
            is taken out where there is one, as the Runner ignores ``model_wrapper_cfg`` there.

    Raises:
        UserError: If ``model_wrapper_cfg`` is FSDP: the Runner saves the part of the weights that
            its first process holds, and no optimizer state that could be resumed.
    """
    wrapper = cfg.get('model_wrapper_cfg')
    if cfg.launcher == 'none':
        if issubclass(strategy_type(cfg), DDPStrategy):
            cfg.strategy = dict(type='SingleDeviceStrategy')
    elif 'runner_type' not in cfg and issubclass(_wrapper_type(wrapper), FullyShardedDataParallel):
        raise UserError(
            f"model_wrapper_cfg.type={wrapper.type} would save one process's part of the weights: "
            "leave model_wrapper_cfg out, and set runner_type='FlexibleRunner' and "
            "strategy=dict(type='FSDPStrategy', state_dict_cfg='full', model_wrapper=dict(...)) "
            'with its other options'
        )


def wrap_without_device(cfg: Config) -> None:
    """Have a model wrapped for processes that have no GPU.

    MMEngine's Runner and strategies give the wrapper the GPU of the process's local rank.

    Args:
        cfg (Config): A config of the Runner or the FlexibleRunner; changed in place.
    """
    if 'runner_type' not in cfg:
        cfg.model_wrapper_cfg = _on_cpu(cfg.get('model_wrapper_cfg'), cfg)
        return
    if cfg.get('strategy') is None:
        cfg.strategy = dict(type='DDPStrategy')
    strategy = strategy_type(cfg)
    if issubclass(strategy, FSDPStrategy):
        cfg.strategy.model_wrapper = cfg.strategy.get('model_wrapper') or {}
        cfg.strategy.model_wrapper.setdefault('device_id', 'cpu')
        if cfg.strategy.get('state_dict_cfg') == 'full':
            cfg.strategy.state_dict_cfg = copy.deepcopy(FULL)
        saved = cfg.strategy.get('state_dict_cfg')
        for name in 'state_dict_config', 'optim_state_dict_config':
            if isinstance(saved, dict) and isinstance(saved.get(name), dict):
                # Moving a tensor from the CPU to the CPU makes no copy, and torch frees it as if
                # it were one: the weights are lost, and Adam's moments are mixed up.
                saved[name].offload_to_cpu = False
    elif issubclass(strategy, DDPStrategy):
        cfg.strategy.model_wrapper = _on_cpu(cfg.strategy.get('model_wrapper'), cfg)


def saves_folders(cfg: Config) -> bool:
    """Whether each process of a run saves its own shard of a checkpoint.

    Args:
        cfg (Config): A training config.

    Returns:
        bool: True for MMEngine's ``FSDPStrategy``, unless its ``state_dict_cfg`` is full.
    """
    if not issubclass(strategy_type(cfg), FSDPStrategy):
        return False
    saved = cfg.strategy.get('state_dict_cfg', 'local')
    kind = saved.get('state_dict_type', '') if isinstance(saved, dict) else saved
    return 'full' not in str(kind).lower()


def strategy_type(cfg: Config) -> type:
    """The strategy's class.

    Args:
        cfg (Config): Any config.

    Returns:
        type: The class of a FlexibleRunner's ``strategy``, by default MMEngine's DDPStrategy;
        ``object`` for a config of the Runner, which has none.
    """
    if 'runner_type' not in cfg:
        return object
    return _type(STRATEGIES, cfg.get('strategy'), DDPStrategy)


def _on_cpu(wrapper: dict | None, cfg: Config) -> dict:
    if wrapper is None:
        # MMEngine's own arguments but for the device.
        wrapper = ConfigDict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    if issubclass(_wrapper_type(wrapper), DistributedDataParallel):
        wrapper.device_ids = None
    return wrapper


def _wrapper_type(wrapper: dict | None) -> type:
    return _type(MODEL_WRAPPERS, wrapper, DistributedDataParallel)


def _type(registry, node: dict | None, default: type) -> type:
    kind = (node or {}).get('type', default)
    # An unknown name is for MMEngine to refuse.
    return (registry.get(kind) or default) if isinstance(kind, str) else kind
