"""The optimizer options and the schedule of a run that is resumed."""

import os.path as osp

from mmengine.config import Config

from poslabel_mm.engine.hooks.last_saved import last_saved
from poslabel_mm.errors import UserError
from poslabel_mm.stack.checkpoint_file import read

HOOK = 'poslabel_mm.ResumeOptionsHook'


def resume_with_options(cfg: Config) -> None:
    """Make a resumed run take optimizer options and schedule from its config.

    :class:`ResumeOptionsHook` is added to a config that lacks it.

    Args:
        cfg (Config): A training config that has been checked to be resumable.

    Raises:
        UserError: If the run was made longer or shorter than the one that is resumed, and a
            parameter scheduler still ends where that one did.
    """
    if 'runner_type' in cfg:  # FlexibleRunner keeps optimizer and schedule to itself
        return
    hooks = list(cfg.get('custom_hooks') or [])
    if HOOK not in [hook.get('type') for hook in hooks if isinstance(hook, dict)]:
        cfg.custom_hooks = [*hooks, dict(type=HOOK)]
    _check_ends(cfg)


def _check_ends(cfg: Config) -> None:
    schedulers = cfg.get('param_scheduler') or []
    keys = [f'param_scheduler.{i}' for i in range(len(schedulers))]
    if isinstance(schedulers, dict):
        schedulers, keys = [schedulers], ['param_scheduler']
    option = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    length, before = cfg.train_cfg.get(option), _length_before(cfg, option)
    if (
        None in (length, before)
        or length == before
        or any('type' not in scheduler for scheduler in schedulers)
    ):
        return
    changes = []
    for key, scheduler in zip(keys, schedulers):
        if scheduler.get('by_epoch', True) != (option == 'max_epochs'):
            continue
        begin = scheduler.get('begin', 0)
        ends = {
            name: scheduler[name]
            for name in ('end', 'T_max', 'total_iters')
            if scheduler.get(name) is not None
        }
        for name, value in ends.items():
            start = 0 if name == 'end' else begin
            if start + value == before:
                changes.append(f'{key}.{name}={length - start:g}')
    if changes:
        raise UserError(
            f'train_cfg.{option} is {length} and was {before} in the run to be resumed, and the '
            f'learning rate is still scheduled for {before}: change them together, --cfg-options '
            f'train_cfg.{option}={length} {" ".join(changes)}'
        )


def _length_before(cfg: Config, option: str) -> int | None:
    path = cfg.get('load_from') or last_saved(cfg.work_dir)
    if path is None or '://' in path or not osp.isfile(osp.expanduser(path)):
        return None
    hub = read(path, 'cpu', mmap=True).get('message_hub') or {}
    return (hub.get('runtime_info') or {}).get(option)
