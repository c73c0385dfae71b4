import ast
import copy
import heapq
import inspect
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.registry import HOOKS

# The progress of a scheduler; all else in its state comes from the config.
PROGRESS = {
    'last_step',
    '_global_step',
    '_last_value',
    'verbose',
    'best',
    'num_bad_epochs',
    'cooldown_counter',
}


@HOOKS.register_module()
class ResumeOptionsHook(Hook):
    """Resumes with the config's optimizer options and schedule.

    A checkpoint holds the options of the optimizer (learning rate, weight
    decay, ...) and the state of the parameter schedulers, and MMEngine resumes
    with them whatever the config says. With this hook the config counts:

    - Where both agree, the run is resumed as by MMEngine, bit for bit.
    - Where an option of the optimizer differs, the config's is taken.
    - Where the schedule differs (another learning rate, a longer run, other
      schedulers, another number of iterations in an epoch), it becomes the one
      that a run with this config would have had from its start, at the epoch
      or iteration from which the run is resumed.

    What was changed is logged. The optimizer's state (its moments) is always
    the checkpoint's.

    Raises:
        UserError: If a schedule differs that follows the validation results
            (``ReduceOnPlateauLR``), which cannot be repeated.
    """

    priority = 'VERY_LOW'

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not getattr(runner, '_resume', False) or not isinstance(
            getattr(runner, 'optim_wrapper', None), OptimWrapper
        ):
            return
        if 'optimizer' not in checkpoint:
            return
        changes = []
        for wrapper, schedulers, optimizer, states, keep in _parts(runner, checkpoint):
            saved = list(optimizer['param_groups'])
            if optimizer.get('base_param_settings') is not None:
                saved.append(optimizer['base_param_settings'])
            if len(saved) != len(wrapper.param_groups):
                continue  # torch refuses it by name
            if _follows_validation(schedulers) and _optimizer(
                checkpoint['meta'].get('cfg', '')
            ) != _optimizer(runner.cfg.pretty_text):
                raise _cannot_repeat()
            rebuilt = not _same(
                [_settings(state) for state in states],
                [_settings(scheduler.state_dict()) for scheduler in schedulers],
            ) or _is_elsewhere(schedulers, states, checkpoint['meta']['iter'])
            changes += _changes(wrapper, schedulers, saved)
            if rebuilt:
                done = _repeat(runner, wrapper, schedulers, checkpoint['meta'])
                changes.append(
                    f'the schedule was rebuilt for this config and moved to iteration {done}'
                )
                keep([scheduler.state_dict() for scheduler in schedulers])
            for group, old in zip(wrapper.param_groups, saved):
                for name in _options(wrapper):
                    if rebuilt or not _is_scheduled(name, schedulers):
                        old[name] = copy.deepcopy(group[name])
                if rebuilt:
                    old.update({name: group[name] for name in _bases(schedulers)})
        if changes:
            runner.logger.warning(
                'resumed with the options of the config in place of the '
                f"checkpoint's: {', '.join(dict.fromkeys(changes))}"
            )


def _parts(runner, checkpoint: dict) -> Iterator[tuple]:
    """For every optimizer its wrapper, its schedulers, the saved states of both, and a function
    that stores another state of the schedulers in the checkpoint."""
    wrapper, schedulers = runner.optim_wrapper, runner.param_schedulers
    if isinstance(wrapper, OptimWrapperDict):
        states = checkpoint.setdefault('param_schedulers', {})
        for name, one in wrapper.items():
            if name in checkpoint['optimizer']:
                yield (
                    one,
                    (schedulers or {}).get(name, []),
                    checkpoint['optimizer'][name],
                    states.get(name, []),
                    lambda new, name=name: states.update({name: new}),
                )
    else:
        yield (
            wrapper,
            schedulers or [],
            checkpoint['optimizer'],
            checkpoint.get('param_schedulers') or [],
            lambda new: checkpoint.update(param_schedulers=new),
        )


def _follows_validation(schedulers: list) -> bool:
    return any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers)


def _cannot_repeat() -> UserError:
    return UserError(
        'the learning rate or its schedule differs from that of the checkpoint and depends on '
        'validation results, which a resumed run cannot repeat: resume with the optimizer and the '
        'param_scheduler that the run began with, or start a new run from its weights '
        '(load_from=FILE without --resume)'
    )


def _optimizer(config: str) -> str | None:
    """The optimizer in a config's text, for schedules that keep no base value."""
    for node in ast.parse(config).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'optim_wrapper':
            return next(
                (
                    ast.unparse(keyword.value)
                    for keyword in getattr(node.value, 'keywords', ())
                    if keyword.arg == 'optimizer'
                ),
                None,
            )
    return None


def _settings(state: dict) -> dict:
    return {name: state[name] for name in sorted(state.keys() - PROGRESS)}


def _is_elsewhere(schedulers: list, states: list[dict], iteration: int) -> bool:
    """Whether schedulers by iteration have counted iterations of another batch size."""
    return not _follows_validation(schedulers) and any(
        not scheduler.by_epoch and state.get('_global_step', iteration) != iteration
        for scheduler, state in zip(schedulers, states)
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (float, Tensor)) and isinstance(b, (float, int, Tensor)):
        return math.isclose(float(a), float(b), rel_tol=1e-9)
    return a == b


def _options(wrapper: OptimWrapper) -> list[str]:
    """The options of the optimizer's constructor; other entries of a group are state."""
    taken = inspect.signature(type(wrapper.optimizer)).parameters
    return [name for name in wrapper.param_groups[0] if name in taken and name != 'params']


def _is_scheduled(name: str, schedulers: list) -> bool:
    scheduled = {scheduler.param_name for scheduler in schedulers}
    # Of Adam and its kind, the momentum is the first of the betas.
    return name in scheduled or (name == 'betas' and 'momentum' in scheduled)


def _bases(schedulers: list) -> set[str]:
    names = {scheduler.param_name for scheduler in schedulers}
    return names | {f'initial_{name}' for name in names}


def _changes(wrapper: OptimWrapper, schedulers: list, saved: list[dict]) -> Iterator[str]:
    """Describe each option that differs, once."""
    for name in _options(wrapper):
        scheduled = _is_scheduled(name, schedulers)
        key = f'initial_{name}' if scheduled else name
        for group, old in zip(wrapper.param_groups, saved):
            was = old.get(key, old.get(name))
            if key in group and not _same(was, group[key]):
                yield f'{name} {_text(group[key])} (was {_text(was)})'
                break


def _text(value: Any) -> str:
    return f'{float(value):g}' if isinstance(value, (float, Tensor)) else f'{value}'


def _repeat(runner, wrapper: OptimWrapper, schedulers: list, meta: dict) -> int:
    """Step schedulers that are at the start to where a checkpoint was saved.

    Returns:
        int: The iteration that they are at then.
    """
    if _follows_validation(schedulers):
        raise _cannot_repeat()
    epochs, iterations = 0, meta['iter']
    length = len(runner.train_dataloader)
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        epochs = meta['epoch']
        if not epochs * length <= iterations <= (epochs + 1) * length:
            iterations = epochs * length  # epochs of another length were counted
    if schedulers:
        runner.logger.info(f'stepping the schedule to iteration {iterations}')

    groups = wrapper.param_groups
    scheduled = _bases(schedulers) | {'betas'}
    # MMEngine makes a group of every parameter: of those that are alike one is enough.
    alike: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        alike.setdefault(repr(_only(group, scheduled)), []).append(i)

    def step():
        """Counted, as MMEngine expects of an optimizer."""

    step._with_counter = True
    stand_in = SimpleNamespace(
        step=step,
        _global_step=0,
        param_groups=[_only(groups[i], scheduled) for i, *_ in alike.values()],
    )
    base_values = [scheduler.base_values for scheduler in schedulers]
    for scheduler, values in zip(schedulers, base_values):
        scheduler.optimizer = stand_in
        scheduler.base_values = [values[i] for i, *_ in alike.values()]
    for scheduler, number in _steps(schedulers, iterations, epochs, length):
        scheduler._global_step = number - 1
        scheduler.step()
    for stepped, members in zip(stand_in.param_groups, alike.values()):
        for i in members:
            groups[i].update(copy.deepcopy(stepped))
    for scheduler, values in zip(schedulers, base_values):
        scheduler._global_step = epochs if scheduler.by_epoch else iterations
        scheduler.optimizer = wrapper
        scheduler.base_values = values
        scheduler._last_value = [group[scheduler.param_name] for group in groups]
    return iterations


def _steps(
    schedulers: list, iterations: int, epochs: int, length: int
) -> Iterator[tuple[Any, int]]:
    """Every step between a scheduler's begin and end, numbered from 1, in the order of training.

    Steps before the begin and after the end change nothing.
    """

    def steps_of(order: int, scheduler: Any) -> Iterator[tuple]:
        last, each = (epochs, length) if scheduler.by_epoch else (iterations, 1)
        for number in range(max(scheduler.begin, 1), min(scheduler.end, last + 1)):
            # After an iteration those of iterations are stepped, then those of epochs.
            yield number * each, scheduler.by_epoch, order, number

    for *_, order, number in heapq.merge(*map(steps_of, range(len(schedulers)), schedulers)):
        yield schedulers[order], number


def _only(group: dict, names: set[str]) -> dict:
    return {name: value for name, value in group.items() if name in names}
