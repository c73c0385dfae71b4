"""Checks of the checkpoint that a run is resumed from."""

import os.path as osp
from glob import escape, glob

from mmengine.config import Config
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from torch import nn

from poslabel_mm.engine.hooks.last_saved import last_saved
from poslabel_mm.engine.sharded_checkpoint import check_shards, is_read_by_strategy
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.differences import compare_whole
from poslabel_mm.launch.checks.finite import FiniteCheck
from poslabel_mm.launch.checks.foreign_keys import whose_keys
from poslabel_mm.launch.checks.model import build_model, warnings_only
from poslabel_mm.launch.checks.opened_checkpoint import Checkpoint, is_url, open_checkpoint
from poslabel_mm.launch.checks.weights_gate import check_same
from poslabel_mm.launch.checks.wording import first_names, with_advice

RESUME_KEYS = ('state_dict', 'optimizer', 'meta', 'message_hub')


def check_resume(cfg: Config) -> None:
    """Check the checkpoint that a run with ``cfg`` is to be resumed from.

    Args:
        cfg (Config): A training config, ``resume`` and ``load_from`` as
            MMEngine reads them.

    Raises:
        UserError: If resuming would fail, with a way out. If the last checkpoint of the work dir
            is damaged, that is the newest one that is intact.
    """
    path = cfg.get('load_from')
    if path is not None:
        if is_read_by_strategy(path, cfg):
            check_shards(path)
        elif not is_url(path):
            model = build_model(cfg)
            _check_resumable(_open_resumable(path, model), model, cfg)
        return
    path = last_saved(cfg.work_dir)
    if path is None:
        if not osp.isfile(osp.join(cfg.work_dir, 'last_checkpoint')):
            return  # nothing was saved: MMEngine starts anew
        path = osp.join(cfg.work_dir, 'last_checkpoint')
    try:
        if is_read_by_strategy(path, cfg):
            return check_shards(path)
        model = build_model(cfg)
        checkpoint = _open_resumable(path, model)
    except UserError as error:
        older = _newest_intact(cfg, damaged=path)
        way_out = f'--resume {older}' if older else 'start again in another --work-dir'
        raise UserError(f'{error}; to continue: {way_out}') from None
    _check_resumable(checkpoint, model, cfg)


def _open_resumable(path: str, model: nn.Module) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    finite = FiniteCheck(model)
    finite.check_weights(checkpoint)
    finite.check_averaged(checkpoint)
    return checkpoint


def _check_resumable(checkpoint: Checkpoint, model: nn.Module, cfg: Config) -> None:
    """Check that a checkpoint holds all that resuming needs, for the same model and optimizer."""
    path, content = checkpoint.path, checkpoint.content
    lacking = [key for key in RESUME_KEYS if key not in content]
    meta = content.get('meta')
    if not lacking and not (isinstance(meta, dict) and 'epoch' in meta and 'iter' in meta):
        lacking = ['meta.epoch']
    if lacking:
        fault = f'cannot be resumed: it has no {", ".join(lacking)}'
        whose = whose_keys(content)
        if whose:
            raise UserError(f'checkpoint {path} {fault}; {whose}')
        raise UserError(
            f'checkpoint {path} {fault}. To start a new run from its weights, '
            f'use --cfg-options load_from={path} without --resume'
        )
    with with_advice('Resume with the config that it was trained with, or use another --work-dir'):
        check_same(checkpoint, compare_whole(checkpoint, model))
    _check_optimizer(path, content['optimizer'], model, cfg)


def _check_optimizer(path: str, saved: dict, model: nn.Module, cfg: Config) -> None:
    """Check that the config's optimizer can load the saved state."""
    wrapper_cfg = cfg.optim_wrapper
    optimizer_cfg = wrapper_cfg.get('optimizer')
    if (
        not isinstance(optimizer_cfg, dict)
        or 'runner_type' in cfg
        # It cannot be built before the processes have joined.
        or optimizer_cfg.get('type') == 'ZeroRedundancyOptimizer'
    ):
        return
    with warnings_only():
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
        # An option that the checkpoint lacks is gone from the groups, unless torch has filled
        # it in, as it does for those of its later versions.
        lacking = set().union(
            *(before.difference(group) for before, group in zip(options, optimizer.param_groups))
        )
        reason = f'it has no {first_names(sorted(lacking))}' if lacking else None
    if reason is not None:
        raise UserError(
            f'checkpoint {path} is not of this optimizer '
            f'({type(optimizer).__name__}): {reason}. Resume with the config '
            'that it was trained with, or start a new run from its weights: '
            f'--cfg-options load_from={path} without --resume'
        )


def _newest_intact(cfg: Config, damaged: str) -> str | None:
    """The newest checkpoint of a work dir that can be resumed from, if there is one."""
    candidates = glob(osp.join(escape(cfg.work_dir), '*.pth'))
    model = None
    for path in sorted(candidates, key=osp.getmtime, reverse=True):
        if osp.abspath(path) == osp.abspath(damaged):
            continue
        try:
            if is_read_by_strategy(path, cfg):
                check_shards(path)
                return path
            model = build_model(cfg) if model is None else model
            content = _open_resumable(path, model).content
        except UserError:
            continue
        if all(key in content for key in RESUME_KEYS):
            return path
    return None
