"""A check of whole numbers in a config, of which MMEngine says little, or says it too late."""

import inspect
from collections.abc import Iterable

from mmengine.config import Config
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.registry import HOOKS

from poslabel_mm import options
from poslabel_mm.launch.checks.loops import has_stock_train_loop

# Options with the least value that means something. Of hooks, -1 stands for never, or for all.
OF_A_LOADER = dict(batch_size=1, num_workers=0)
OF_HOOKS = {
    'logger': (LoggerHook, dict(interval=1, interval_exp_name=1)),
    'checkpoint': (CheckpointHook, dict(interval=-1, max_keep_ckpts=-1, save_begin=0)),
}
OF_TRAINING = dict(accumulative_counts=1)
OF_VALIDATION = dict(val_interval=1, val_begin=0)


def check_numbers(cfg: Config, loaders: Iterable[str], trains: bool) -> None:
    """Check sizes and intervals that a run would fail with, some of them after its first epoch.

    A number such as 2.0 becomes a whole one. Hooks and training loops of types that MMEngine's are
    no parents of are left alone.

    Args:
        cfg (Config): A complete config; changed in place.
        loaders (iterable[str]): Which of its data loaders are used.
        trains (bool): Whether it is trained, and not tested alone.

    Raises:
        UserError: With the first option that is no whole number, or that is too small to mean
            anything. MMEngine would take some of these in silence: -1 for a ``val_interval`` is
            1 to it.
    """
    for key in loaders:
        loader = cfg.get(key) or {}
        # A sampler of batches knows their size.
        leaves = {'batch_size'} if loader.get('batch_sampler') else set()
        _check(key, loader, {k: v for k, v in OF_A_LOADER.items() if k not in leaves})
    for name, (stock, leasts) in OF_HOOKS.items():
        hook = (cfg.get('default_hooks') or {}).get(name) or {}
        kind = hook.get('type', stock)
        kind = HOOKS.get(kind) if isinstance(kind, str) else kind
        if inspect.isclass(kind) and issubclass(kind, stock):
            _check(f'default_hooks.{name}', hook, leasts)
    if not trains:
        return
    _check('optim_wrapper', cfg.get('optim_wrapper') or {}, OF_TRAINING)
    if has_stock_train_loop(cfg):
        if cfg.get('val_cfg') is not None:
            _check('train_cfg', cfg.train_cfg, OF_VALIDATION)
        _check_dynamic_intervals(cfg.train_cfg.get('dynamic_intervals'))


def _check(path: str, part: dict, leasts: dict[str, int]) -> None:
    for key, least in leasts.items():
        if key in part:
            value = part[key]
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            part[key] = options.whole_number(f'{path}.{key}', whole, least)


def _check_dynamic_intervals(intervals: object) -> None:
    key = 'train_cfg.dynamic_intervals'
    if intervals is None:
        return
    if not isinstance(intervals, list) or not all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in intervals
    ):
        raise options.wrong(
            key,
            intervals,
            'is refused: set it to a list of tuples (first epoch or iteration, interval)',
        )
    starts = [
        options.whole_number(f'{key}.{i}.0', start, 0) for i, (start, _) in enumerate(intervals)
    ]
    if starts != sorted(starts):
        raise options.wrong(key, intervals, 'is refused: list the intervals by when they begin')
    for i, (_, interval) in enumerate(intervals):
        options.whole_number(f'{key}.{i}.1', interval)
