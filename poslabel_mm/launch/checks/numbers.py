"""A check of the whole numbers of a config that MMEngine reads without looking at them."""

from collections.abc import Iterator

from mmengine.config import Config

from poslabel_mm import options
from poslabel_mm.launch.checks.loops import has_stock_train_loop

# The least value of an option by the part of the config that it is in.
OF_TRAINING = {
    'optim_wrapper': dict(accumulative_counts=1),
    'default_hooks.logger': dict(interval=1),
    'default_hooks.checkpoint': dict(interval=-1, max_keep_ckpts=-1),  # -1: never, and all
}
OF_VALIDATION = {'train_cfg': dict(val_interval=1, val_begin=0)}
OF_A_LOADER = dict(batch_size=1, num_workers=0)


def check_numbers(cfg: Config, loaders: tuple[str, ...], trains: bool) -> None:
    """Check the sizes and intervals that a run would fail of, some of them after a whole epoch.

    Args:
        cfg (Config): A complete config.
        loaders (tuple[str]): Which of its data loaders are used.
        trains (bool): Whether it is trained, and not tested alone.

    Raises:
        UserError: With the first option that is no whole number, or too small.
    """
    for path, leasts in _leasts(cfg, loaders, trains):
        part = cfg
        for key in path.split('.'):
            part = part.get(key) if isinstance(part, (Config, dict)) else None
        for key, least in leasts.items():
            if isinstance(part, dict) and key in part:
                options.whole_number(f'{path}.{key}', part[key], least)
    if trains and _validates(cfg):
        _check_dynamic_intervals(cfg.train_cfg.get('dynamic_intervals'))


def _leasts(cfg: Config, loaders: tuple[str, ...], trains: bool) -> Iterator[tuple[str, dict]]:
    for loader in loaders:
        yield loader, OF_A_LOADER
    if trains:
        yield from OF_TRAINING.items()
        if _validates(cfg):
            yield from OF_VALIDATION.items()


def _validates(cfg: Config) -> bool:
    return cfg.get('val_cfg') is not None and has_stock_train_loop(cfg)


def _check_dynamic_intervals(intervals: object) -> None:
    key = 'train_cfg.dynamic_intervals'
    if intervals is None:
        return
    if not isinstance(intervals, list) or not all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in intervals
    ):
        raise options.wrong(
            key, intervals, 'is refused: set it to a list of tuples (from when, interval)'
        )
    for i, (start, interval) in enumerate(intervals):
        options.whole_number(f'{key}.{i}.0', start, 0)
        options.whole_number(f'{key}.{i}.1', interval)
