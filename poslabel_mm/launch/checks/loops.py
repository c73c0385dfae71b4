"""Checks that the loops of a run can be built."""

import inspect
import math
from difflib import get_close_matches

from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop

from poslabel_mm.errors import UserError

TRAIN_LOOPS = {True: EpochBasedTrainLoop, False: IterBasedTrainLoop}
BY_EPOCH = {loop.__name__: by_epoch for by_epoch, loop in TRAIN_LOOPS.items()}
# The length of a training loop by whether it counts epochs, as MMEngine has it.
LENGTHS = {True: 'max_epochs', False: 'max_iters'}
OTHER_LOOPS = dict(val_cfg=ValLoop, test_cfg=TestLoop)


def check_train_loop(cfg: Config) -> None:
    """Check that ``train_cfg`` has the length that its loop counts, and no other options.

    A length or a type that is None, as ``--cfg-options train_cfg.max_epochs=None`` sets it, is
    taken out: it is how a command line leaves out what a config has. A length such as 3.0 becomes
    a whole number, which names of checkpoints have. A loop of a type that is none of MMEngine's
    two is left to MMEngine.

    Args:
        cfg (Config): A training config; changed in place.

    Raises:
        UserError: If MMEngine could not build the loop, or it would train nothing.
    """
    train_cfg = cfg.get('train_cfg')
    if not isinstance(train_cfg, dict):
        raise UserError('the config has no train_cfg: set train_cfg.by_epoch and its length')
    if 'type' in train_cfg and train_cfg.type is None:
        del train_cfg['type']
    kind = train_cfg.get('type')
    if not has_stock_train_loop(cfg):
        if 'by_epoch' in train_cfg:
            _refuse_type_and_by_epoch(train_cfg, 'train_cfg.type=None')
        return
    for length in LENGTHS.values():
        if length in train_cfg and train_cfg[length] is None:
            del train_cfg[length]
    if kind is None and 'by_epoch' not in train_cfg:
        raise UserError(
            'train_cfg does not say what the training loop counts: set train_cfg.by_epoch=True '
            'and max_epochs, or train_cfg.by_epoch=False and max_iters'
        )
    by_epoch = bool(train_cfg.by_epoch) if 'by_epoch' in train_cfg else BY_EPOCH[_name(kind)]
    changes = _changes(cfg, by_epoch)
    if kind is not None and 'by_epoch' in train_cfg:
        _refuse_type_and_by_epoch(train_cfg, f'train_cfg.type=None {changes}'.rstrip())
    own, other = LENGTHS[by_epoch], LENGTHS[not by_epoch]
    counts = f'counts {"epochs" if by_epoch else "iterations"}'
    if other in train_cfg:
        raise UserError(
            f'train_cfg.{other}={train_cfg[other]} does not apply to a training loop that '
            f'{counts}; leave it out with --cfg-options {changes}'
        )
    if own not in train_cfg:
        raise UserError(f'the training loop {counts} and has no length: set train_cfg.{own}')
    train_cfg[own] = whole_length(own, train_cfg[own])
    _check_options('train_cfg', TRAIN_LOOPS[by_epoch], train_cfg, 'type', 'by_epoch')


def has_stock_train_loop(cfg: Config) -> bool:
    """Whether the training loop is one of MMEngine's two, whose options are known."""
    kind = cfg.train_cfg.get('type')
    return kind is None or _name(kind) in BY_EPOCH


def whole_length(name: str, value: object) -> int:
    """The length of a training.

    Args:
        name (str): 'max_epochs' or 'max_iters'.
        value (int | float): Its value; 3.0 is 3.

    Returns:
        int: The length.

    Raises:
        UserError: If it is no whole number, or below 1.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or value % 1 or value < 1:
        raise UserError(f'train_cfg.{name}={value!r} is refused: set it to a whole number from 1')
    return int(value)


def _refuse_type_and_by_epoch(train_cfg: dict, changes: str) -> None:
    raise UserError(
        f'train_cfg has type={_name(train_cfg["type"])} and by_epoch={train_cfg["by_epoch"]}, and '
        'each says what the training loop counts: leave one of them out, the type with '
        f'--cfg-options {changes}'
    )


def _changes(cfg: Config, by_epoch: bool) -> str:
    """The options that take the length of the other loop out, and set what this one needs."""
    own, other = LENGTHS[by_epoch], LENGTHS[not by_epoch]
    options = [f'train_cfg.{other}=None'] if other in cfg.train_cfg else []
    if own not in cfg.train_cfg:
        options.append(f'train_cfg.{own}=N')
    hook = (cfg.get('default_hooks') or {}).get('checkpoint', {})
    if not by_epoch and hook is not None and hook.get('by_epoch', True):
        # It would save at the end alone.
        length = cfg.train_cfg.get(own)
        interval = math.ceil(length / 10) if isinstance(length, int) and length > 0 else 'N'
        options += [
            'default_hooks.checkpoint.by_epoch=False',
            f'default_hooks.checkpoint.interval={interval}',
        ]
    return ' '.join(options)


def check_other_loop(cfg: Config, key: str) -> None:
    """Check that a loop of validation or test has no options that it does not take.

    Args:
        cfg (Config): A complete config.
        key (str): 'val_cfg' or 'test_cfg'.

    Raises:
        UserError: With the option.
    """
    loop = cfg.get(key)
    if isinstance(loop, dict) and 'type' not in loop:
        _check_options(key, OTHER_LOOPS[key], loop)


def _name(kind: object) -> str:
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def _check_options(key: str, loop: type, options: dict, *more: str) -> None:
    taken = [*inspect.signature(loop).parameters, *more]
    for name in options:
        if name not in taken:
            close = get_close_matches(name, taken, 1)
            hint = f'; did you mean {close[0]}?' if close else ''
            raise UserError(f"{key}: {loop.__name__} takes no option '{name}'{hint}")
