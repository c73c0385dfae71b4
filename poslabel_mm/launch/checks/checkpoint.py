"""What is wrong with a checkpoint, found before a run touches its work dir.

Each way in, ``load_from``, ``init_cfg``, ``--resume`` and testing, goes through
:mod:`.weights_gate`.
"""

import copy
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape, glob

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import PretrainedInit
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from poslabel_mm.engine.hooks.last_saved import last_saved
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.foreign_keys import whose_keys
from poslabel_mm.launch.checks.weights_gate import (
    INIT_PREFIX,
    Checkpoint,
    check_averaged,
    check_same,
    check_scored,
    check_start,
    compare_below,
    compare_whole,
    open_checkpoint,
    some,
)

RESUME_KEYS = ('state_dict', 'optimizer', 'meta', 'message_hub')


def check_resume(cfg: Config) -> None:
    """Check the checkpoint that a run with ``cfg`` is to be resumed from.

    Args:
        cfg (Config): A training config, ``resume`` and ``load_from`` as
            MMEngine reads them.

    Raises:
        UserError: If resuming would fail, with the way out: for an automatic
            resume the newest older checkpoint that is intact.
    """
    path = cfg.get('load_from')
    if path is not None:
        if not _is_address(path) and not _is_sharded(path, cfg):
            _check_resumable(_open_to_resume(path), cfg)
        return
    path = last_saved(cfg.work_dir)
    if path is None:
        if not osp.isfile(osp.join(cfg.work_dir, 'last_checkpoint')):
            return  # nothing was saved: MMEngine starts anew
        path = osp.join(cfg.work_dir, 'last_checkpoint')
    if _is_sharded(path, cfg):
        return
    try:
        checkpoint = _open_to_resume(path)
    except UserError as error:
        older = _newest_intact(cfg.work_dir, but=path)
        way_out = f'--resume {older}' if older else ('start again in another --work-dir')
        raise UserError(f'{error}; go on with: {way_out}') from None
    _check_resumable(checkpoint, cfg)


def check_weights(path: str, cfg: Config) -> None:
    """Check the checkpoint that a model is to be tested with.

    Args:
        path (str): A checkpoint file; an address is left to MMEngine.
        cfg (Config): A config with that model.

    Raises:
        UserError: If it is unreadable, or other than in position heads the
            model is not the one that it holds.
    """
    if _is_address(path):
        return
    checkpoint = open_checkpoint(path)
    with _way_out('Is it the right config?'):
        check_scored(checkpoint, compare_whole(checkpoint, _build_model(cfg)))


def check_load_from(cfg: Config) -> None:
    """Check the checkpoint that a new run takes its weights from.

    Args:
        cfg (Config): A training config, with ``load_from`` or without.

    Raises:
        UserError: If it is unreadable, or of no use to the model.
    """
    path = cfg.get('load_from')
    if path is None or _is_address(path) or _is_sharded(path, cfg):
        return
    way_out = 'name another with --cfg-options load_from=FILE'
    with _way_out(way_out):
        checkpoint = open_checkpoint(path)
    model = _build_model(cfg)
    of_backbone = {
        key[len('backbone.') :] for key in model.state_dict() if key.startswith('backbone.')
    }
    if 2 * len(of_backbone.intersection(checkpoint.weights)) > len(of_backbone):
        way_out = (
            'for the weights of a backbone alone, leave load_from out: '
            '--cfg-options model.backbone.init_cfg.type=Pretrained '
            f'model.backbone.init_cfg.checkpoint={path}'
        )
    with _way_out(way_out):
        check_start(checkpoint, model, compare_whole(checkpoint, model), '')


def check_pretrained(cfg: Config) -> None:
    """Check the checkpoints that parts of a model are initialised from.

    MMEngine logs what does not fit and trains without it.

    Args:
        cfg (Config): A training config.

    Raises:
        UserError: If an ``init_cfg`` of type ``Pretrained`` names no readable
            checkpoint, or none that fits its part of the model.
    """
    if not any(_is_pretrained(key, value) for key, value in _items(cfg.get('model'), 'model')):
        return
    stock = PretrainedInit.__call__
    # Some parts load theirs while they are built.
    PretrainedInit.__call__ = lambda init, module: _check_part(init, module, cfg)
    try:
        model = _build_model(cfg)
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
    path = init.checkpoint or ''
    if _is_address(path):
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
    with _way_out(way_out):
        checkpoint = open_checkpoint(path)
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
    with _way_out(way_out):
        if init.prefix is None:
            differences = compare_whole(checkpoint, module, INIT_PREFIX)
        else:
            differences = compare_below(checkpoint, module, init.prefix)
        check_start(checkpoint, module, differences, name)


def _is_pretrained(key: str, value) -> bool:
    return (
        key.endswith('.type')
        and value in ('Pretrained', PretrainedInit)
        or key.endswith('.pretrained')
        and isinstance(value, str)
    )


def _names_checkpoint(key: str) -> bool:
    return key.endswith(('.checkpoint', '.pretrained'))


def _items(node, key: str) -> Iterator[tuple[str, object]]:
    """Every key of a config with its value, as --cfg-options takes it."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _items(value, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _items(value, f'{key}.{index}')
    else:
        yield key, node


def _is_address(path: str) -> bool:
    return '://' in path


def _is_sharded(path: str, cfg: Config) -> bool:
    """Whether the strategy of a FlexibleRunner reads it, a folder."""
    return 'runner_type' in cfg and osp.isdir(path)


@contextmanager
def _way_out(text: str) -> Iterator[None]:
    """Ends an error with what to do."""
    try:
        yield
    except UserError as error:
        mark = '.' if text[0].isupper() else ';'
        raise UserError(f'{error}{mark} {text}') from error


def _open_to_resume(path: str) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    check_averaged(checkpoint)
    return checkpoint


def _check_resumable(checkpoint: Checkpoint, cfg: Config) -> None:
    path, content = checkpoint.path, checkpoint.content
    lacking = [key for key in RESUME_KEYS if key not in content]
    meta = content.get('meta')
    if not lacking and not (isinstance(meta, dict) and 'epoch' in meta and 'iter' in meta):
        lacking = ['meta.epoch']
    if lacking:
        said = f'cannot be resumed: it has no {", ".join(lacking)}'
        whose = whose_keys(content)
        if whose:
            raise UserError(f'checkpoint {path} {said}; {whose}')
        raise UserError(
            f'checkpoint {path} {said}. To start a new run from its weights, '
            f'use --cfg-options load_from={path} without --resume'
        )
    model = _build_model(cfg)
    with _way_out('Resume with the config that it was trained with, or use another --work-dir'):
        check_same(checkpoint, compare_whole(checkpoint, model))
    _check_optimizer(path, content['optimizer'], model, cfg)


def _check_optimizer(path: str, saved: dict, model: nn.Module, cfg: Config) -> None:
    wrapper_cfg = cfg.optim_wrapper
    optimizer_cfg = wrapper_cfg.get('optimizer')
    if (
        not isinstance(optimizer_cfg, dict)
        or 'runner_type' in cfg
        # Can be built only once the processes have joined.
        or optimizer_cfg.get('type') == 'ZeroRedundancyOptimizer'
    ):
        return
    with _quiet():
        wrapper = build_optim_wrapper(model, wrapper_cfg)
    if isinstance(wrapper, OptimWrapperDict):
        return
    optimizer = wrapper.optimizer
    options = [set(group) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(saved)
    except KeyError as error:
        reason = f'it has no {error.args[0]}'
    except Exception as error:
        reason = ' '.join(str(error).split())
    else:
        # Where torch's versions differ, loading has filled the options in.
        lacking = set().union(
            *(before.difference(group) for before, group in zip(options, optimizer.param_groups))
        )
        reason = f'it has no {some(sorted(lacking))}' if lacking else None
    if reason is not None:
        raise UserError(
            f'checkpoint {path} is not of this optimizer '
            f'({type(optimizer).__name__}): {reason}. Resume with the config '
            'that it was trained with, or start a new run from its weights: '
            f'--cfg-options load_from={path} without --resume'
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the line for every parameter that the Runner will log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)


def _build_model(cfg: Config) -> nn.Module:
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = copy.deepcopy(cfg.model)
    # Test-time augmentation wraps the model that the checkpoint is of.
    model_cfg = model_cfg.get('module', model_cfg)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return MODELS.build(model_cfg)


def _newest_intact(work_dir: str, but: str) -> str | None:
    candidates = glob(osp.join(escape(work_dir), '*.pth'))
    for path in sorted(candidates, key=osp.getmtime, reverse=True):
        if osp.abspath(path) == osp.abspath(but):
            continue
        try:
            content = _open_to_resume(path).content
        except UserError:
            continue
        if all(key in content for key in RESUME_KEYS):
            return path
    return None
