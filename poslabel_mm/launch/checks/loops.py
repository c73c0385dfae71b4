"""Checks that the loops of a run can be built."""

import inspect
from difflib import get_close_matches

from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop

from poslabel_mm.errors import UserError

TRAIN_LOOPS = {True: EpochBasedTrainLoop, False: IterBasedTrainLoop}
# The length of a training loop by whether it counts epochs, as MMEngine has it.
LENGTHS = {True: 'max_epochs', False: 'max_iters'}
OTHER_LOOPS = dict(val_cfg=ValLoop, test_cfg=TestLoop)


def check_train_loop(cfg: Config) -> None:
    """Check that ``train_cfg`` has the length that its loop counts, and no other options.

    A length that is None, as ``--cfg-options train_cfg.max_epochs=None`` sets it, is taken out:
    it is how a command line leaves out what a config has. What else a loop with a ``type`` takes
    is left to MMEngine.

    Args:
        cfg (Config): A training config; changed in place.

    Raises:
        UserError: If MMEngine could not build the loop.
    """
    train_cfg = cfg.get('train_cfg')
    if not isinstance(train_cfg, dict):
        raise UserError('the config has no train_cfg: set train_cfg.by_epoch and its length')
    kind = train_cfg.get('type')
    if kind is None or _name(kind) in map(_name, TRAIN_LOOPS.values()):
        for length in LENGTHS.values():
            if length in train_cfg and train_cfg[length] is None:
                del train_cfg[length]
    if kind is not None:
        if 'by_epoch' in train_cfg:
            raise UserError(
                f'train_cfg has both type={kind!r} and by_epoch={train_cfg.by_epoch}, which say '
                'what the training loop is: leave one of them out'
            )
        return
    if 'by_epoch' not in train_cfg:
        raise UserError(
            'train_cfg does not say what the training loop counts: set train_cfg.by_epoch=True '
            'and max_epochs, or train_cfg.by_epoch=False and max_iters'
        )
    by_epoch = bool(train_cfg.by_epoch)
    own, other = LENGTHS[by_epoch], LENGTHS[not by_epoch]
    unit = 'epochs' if by_epoch else 'iterations'
    counts = f'counts {unit} (train_cfg.by_epoch={train_cfg.by_epoch})'
    if other in train_cfg:
        change = f'{other}=None' if own in train_cfg else f'{other}=None train_cfg.{own}=N'
        raise UserError(
            f'train_cfg.{other}={train_cfg[other]} is no length of a training loop that {counts}: '
            f'--cfg-options train_cfg.{change}'
        )
    if own not in train_cfg:
        raise UserError(f'the training loop {counts} and has no length: set train_cfg.{own}')
    length = train_cfg[own]
    if isinstance(length, bool) or not isinstance(length, (int, float)) or length % 1:
        raise UserError(f'train_cfg.{own}={length!r} is refused: set it to a whole number')
    _check_options('train_cfg', TRAIN_LOOPS[by_epoch], train_cfg, 'by_epoch')


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
