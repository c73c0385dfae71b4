"""Checks of the checkpoints that a config's ``init_cfg`` names for parts of a model."""

import os.path as osp
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.model import PretrainedInit
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.differences import (
    INIT_PREFIX,
    compare_below,
    compare_whole,
    with_dot,
)
from poslabel_mm.launch.checks.finite import FiniteCheck
from poslabel_mm.launch.checks.model import build_model
from poslabel_mm.launch.checks.opened_checkpoint import is_url, open_checkpoint
from poslabel_mm.launch.checks.weights_gate import check_start
from poslabel_mm.launch.checks.wording import with_advice


def check_pretrained(cfg: Config) -> None:
    """Check the checkpoints that parts of a model are initialised from.

    MMEngine itself only logs what does not fit.

    Args:
        cfg (Config): A training config.

    Raises:
        UserError: If an ``init_cfg`` of type ``Pretrained`` names no readable
            checkpoint, or none that fits its part of the model.
    """
    if not any(_is_pretrained(key, value) for key, value in _items(cfg.get('model'), 'model')):
        return
    stock = PretrainedInit.__call__
    # Some parts load their checkpoint while they are built.
    PretrainedInit.__call__ = lambda init, module: _check_part(init, module, cfg)
    try:
        model = build_model(cfg)
    finally:
        PretrainedInit.__call__ = stock
    for name, module in model.named_modules():
        if getattr(module, 'is_init', False):
            continue
        init_cfgs = getattr(module, 'init_cfg', None) or []
        for init_cfg in [init_cfgs] if isinstance(init_cfgs, dict) else init_cfgs:
            if init_cfg.get('type') in ('Pretrained', PretrainedInit):
                options = {k: v for k, v in init_cfg.items() if k != 'type'}
                options.setdefault('checkpoint', '')
                _check_part(PretrainedInit(**options), module, cfg, name)


def _check_part(
    init: PretrainedInit, module: nn.Module, cfg: Config, name: str | None = None
) -> None:
    """Check the checkpoint of one part, whose name is looked up in the config if not given."""
    path = init.checkpoint or ''
    if is_url(path):
        return
    key = next(
        (
            key
            for key, value in _items(cfg.model, 'model')
            if value == init.checkpoint and _names_checkpoint(key)
        ),
        'model.init_cfg.checkpoint',
    )
    if name is None:
        name = '.'.join(key.split('.')[1:-2]) or 'a part'
    way_out = f'name another with --cfg-options {key}=FILE'
    if not path:
        raise UserError(
            f'no checkpoint is named to start from: train that model first, or {way_out}'
        )
    if not osp.exists(osp.expanduser(path)):
        raise UserError(f'checkpoint {path} does not exist: train that model first, or {way_out}')
    with with_advice(way_out):
        checkpoint = open_checkpoint(path)
        FiniteCheck(module, with_dot(init.prefix or '')).check_weights(checkpoint)
    prefix_key = key.rpartition('.')[0] + '.prefix'
    last = name.rpartition('.')[2] + '.'
    if init.prefix == '':
        way_out = (
            f"MMEngine takes '' for '.': leave {prefix_key} out, or name what the keys begin with"
        )
    elif (
        init.prefix is None
        and name
        and any(weight.startswith(last) for weight in checkpoint.weights)
    ):
        way_out = f'its keys begin with {last}: set {prefix_key}={last}'
    with with_advice(way_out):
        if init.prefix is None:
            differences = compare_whole(checkpoint, module, INIT_PREFIX)
        else:
            differences = compare_below(checkpoint, module, init.prefix)
        check_start(checkpoint, module, differences, name)


def _is_pretrained(key: str, value: object) -> bool:
    """Whether a config's item asks for pre-trained weights."""
    return (
        key.endswith('.type')
        and value in ('Pretrained', PretrainedInit)
        or key.endswith('.pretrained')
        and isinstance(value, str)
    )


def _names_checkpoint(key: str) -> bool:
    """Whether a config's key holds the path of a checkpoint."""
    return key.endswith(('.checkpoint', '.pretrained'))


def _items(node: object, key: str) -> Iterator[tuple[str, object]]:
    """Yield every value of a config with its key, written as for ``--cfg-options``."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _items(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _items(value, f'{key}.{index}')
    else:
        yield key, node
