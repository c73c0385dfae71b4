"""Checks that the learning rate's schedule fits into the run."""

import copy
import functools
import math
from collections.abc import Callable

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from poslabel_mm.engine.ranks import num_processes
from poslabel_mm.errors import UserError

INF = int(1e9)  # MMEngine's `end` of a scheduler without one

# The share of a warm-up in a run whose schedule does not give its length.
WARMUP = 0.1


def check_schedule(cfg: Config) -> None:
    """Check that every parameter scheduler begins before it ends.

    Begin and end are compared as MMEngine compares them: in whole iterations for a scheduler with
    ``convert_to_iter_based``, in epochs for another. A scheduler without an ``end`` ends with the
    run, so a warm-up may be longer than a run that was made shorter.

    Args:
        cfg (Config): A training config whose data exists. Schedulers of
            several optimizers are left to MMEngine.

    Raises:
        UserError: With the run's length and the options to change together.
    """
    train_cfg = cfg.get('train_cfg') or {}
    schedulers = cfg.get('param_scheduler') or []
    keys = [f'param_scheduler.{i}' for i in range(len(schedulers))]
    if isinstance(schedulers, dict):
        schedulers, keys = [schedulers], ['param_scheduler']
    if not ('max_epochs' in train_cfg or 'max_iters' in train_cfg) or any(
        'type' not in one for one in schedulers
    ):
        return
    # Computed only where it is needed: it reads the folders of the data.
    iterations = functools.cache(lambda: _iterations_per_epoch(cfg))
    for key, scheduler in zip(keys, schedulers):
        begin, end = _span(scheduler, train_cfg, iterations)
        if begin >= end:
            raise UserError(_refusal(key, dict(zip(keys, schedulers)), train_cfg, iterations))


def _length(by_epoch: bool, train_cfg: dict, iterations: Callable[[], int]) -> int:
    """The run's length in epochs or iterations, as MMEngine counts it."""
    if 'max_epochs' in train_cfg:
        epochs = train_cfg['max_epochs']
        return epochs if by_epoch else epochs * iterations()
    return 1 if by_epoch else train_cfg['max_iters']


def _span(scheduler: dict, train_cfg: dict, iterations: Callable[[], int]) -> tuple[float, float]:
    by_epoch = scheduler.get('by_epoch', True)
    begin = scheduler.get('begin', 0)
    end = (
        scheduler['end']
        if 'end' in scheduler
        # An epoch has an iteration at least.
        else (INF if begin == 0 else _length(by_epoch, train_cfg, iterations))
    )
    if _in_iterations(scheduler) and not (begin == int(begin) and end == int(end)):
        begin, end = (
            point if point == INF else int(point * iterations()) for point in (begin, end)
        )
    return begin, end


def _in_iterations(scheduler: dict) -> bool:
    return scheduler.get('convert_to_iter_based', False) and scheduler.get('by_epoch', True)


def _refusal(
    key: str, schedulers: dict[str, dict], train_cfg: dict, iterations: Callable[[], int]
) -> str:
    scheduler = schedulers[key]
    option = 'max_epochs' if 'max_epochs' in train_cfg else 'max_iters'
    by_epoch = scheduler.get('by_epoch', True)
    begin = scheduler.get('begin', 0)
    end = scheduler.get('end', _length(by_epoch, train_cfg, iterations))
    unit = 'epoch' if by_epoch else 'iteration'
    line = (
        f'{key} begins at {unit} {_text(begin)} and ends at {unit} {_text(end)}, with '
        f'train_cfg.{option}={train_cfg[option]}'
    )
    if _in_iterations(scheduler):
        line += f' and {iterations()} iterations an epoch'
    together = {
        name: one for name, one in schedulers.items() if one.get('by_epoch', True) == by_epoch
    }
    flags = ''
    if option == 'max_iters' and by_epoch:
        # MMEngine takes such a run for one epoch: have the schedulers count iterations.
        for name, one in together.items():
            flags += f' {name}.by_epoch=False'
            if _in_iterations(one):
                flags += f' {name}.convert_to_iter_based=False'
            together[name] = {**one, 'by_epoch': False}
    length, changes = _squeezed(together, train_cfg, iterations)
    changes = {f'train_cfg.{option}': length, **changes}
    options = ' '.join(f'{name}={_text(value)}' for name, value in changes.items())
    return f'{line}: change them together, such as --cfg-options {options}{flags}'


def _squeezed(
    schedulers: dict[str, dict], train_cfg: dict, iterations: Callable[[], int]
) -> tuple[int, dict[str, float]]:
    """A run's length, and schedulers of one unit that fit into it.

    They keep their shares of the run. The run is longer than asked for only
    where it has fewer iterations than there are parts of the schedule.
    """
    option = 'max_epochs' if 'max_epochs' in train_cfg else 'max_iters'
    length = train_cfg[option]
    first = next(iter(schedulers.values()))
    if option == 'max_epochs' and not first.get('by_epoch', True):
        length *= iterations()
    # The smallest step, as a part of the unit that the schedulers count in.
    converted = any(map(_in_iterations, schedulers.values()))
    steps = iterations() if converted else 1
    points = sorted(
        {
            one[name]
            for one in schedulers.values()
            for name in ('begin', 'end')
            if 0 < one.get(name, 0) < INF
        }
    )
    total = max(
        [one.get('end', 0) for one in schedulers.values() if one.get('end', 0) < INF]
        + [one.get('begin', 0) + one.get('T_max', 0) for one in schedulers.values()]
    )
    latest = max(one.get('begin', 0) for one in schedulers.values())
    if total <= latest:
        total = latest / WARMUP
    inner = [point for point in points if point < total]
    length = max(length, math.ceil((len(inner) + 1) / steps))
    moved = {0: 0, total: length}
    last = 0
    for i, point in enumerate(inner):
        most = round(length * steps) - (len(inner) - i)
        count = min(max(round(point * length / total * steps), last + 1), most)
        moved[point] = _shortest(count, steps)
        last = count
    changes = {}
    for key, one in schedulers.items():
        for name in 'begin', 'end':
            if name in one and moved.get(one[name], one[name]) != one[name]:
                changes[f'{key}.{name}'] = moved[one[name]]
        if 'T_max' in one:
            begin = one.get('begin', 0)
            end = begin + one['T_max']
            changes[f'{key}.T_max'] = (
                moved[end] - moved[begin] if end in moved else one['T_max'] * length / total
            )
    if option == 'max_epochs' and not first.get('by_epoch', True):
        length = math.ceil(length / iterations())
    return length, changes


def _shortest(count: int, steps: int) -> float:
    """The shortest decimal number of which MMEngine makes so many iterations."""
    for digits in range(1, 7):
        value = math.ceil(round(count / steps * 10**digits, 6)) / 10**digits
        if int(value * steps) == count:
            return value
    return count / steps


def _text(value: float) -> str:
    return f'{value:.6f}'.rstrip('0').rstrip('.')


def _iterations_per_epoch(cfg: Config) -> int:
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = Runner.build_dataloader(copy.deepcopy(cfg.train_dataloader))
    # The processes have not joined yet.
    processes = num_processes(cfg)
    if loader.batch_size is None:  # a batch sampler of its own
        return max(1, math.ceil(len(loader) / processes))
    samples = math.ceil(len(loader.sampler) / processes)
    cut = math.floor if loader.drop_last else math.ceil
    return max(1, cut(samples / loader.batch_size))
