"""Checks that the schedules of the position heads, and of DINO's parts, fit into the run."""

import inspect
from collections.abc import Iterator
from itertools import chain

from mmengine.config import Config

from poslabel_mm.errors import UserError
from poslabel_mm.models.necks import DINONeck
from poslabel_mm.models.schedules import SCHEDULES

# The parts of a model that may have schedules.
PARTS = 'pos_head', 'head', 'patch_head'


def check_head_schedules(cfg: Config) -> None:
    """Check that schedules which count epochs are in a run that does, and fit into it.

    Args:
        cfg (Config): A training config.

    Raises:
        UserError: With the key of the option to change.
    """
    train_cfg = cfg.get('train_cfg') or {}
    max_epochs = train_cfg.get('max_epochs')
    model = cfg.get('model') or {}
    _check_frozen_epochs(model.get('neck'), train_cfg)
    found = (_schedules(model.get(part), f'model.{part}') for part in PARTS)
    for key, schedule in chain.from_iterable(found):
        warms_up = schedule['type'] == 'warmup'
        if max_epochs is None and 'max_iters' in train_cfg:
            way_out = 'leave it out, for a schedule over the whole run'
            if warms_up:  # which cannot be without
                way_out = "take type='linear' or 'cosine', over the whole run"
            for name in 'begin', 'epochs':
                if schedule.get(name):
                    raise UserError(
                        f'{key}.{name}={schedule[name]} counts epochs, but the training loop '
                        f'counts iterations: {way_out}, or set train_cfg.by_epoch=True and '
                        'max_epochs'
                    )
        if not _is_number(max_epochs):
            continue
        run = f'the run has {max_epochs} epochs (train_cfg.max_epochs)'
        begin, epochs = schedule.get('begin'), schedule.get('epochs')
        if _is_number(begin) and begin >= max_epochs:
            raise UserError(f'{key}.begin={begin} is never reached: {run}')
        if warms_up and _is_number(epochs) and epochs >= max_epochs:
            raise UserError(f'{key}.epochs={epochs} warms up to the end: {run}; set it to less')


def _check_frozen_epochs(neck: object, train_cfg: dict) -> None:
    kind = neck.get('type') if isinstance(neck, dict) else None
    if getattr(kind, '__name__', str(kind)).rpartition('.')[2] != DINONeck.__name__:
        return
    default = inspect.signature(DINONeck).parameters['freeze_last_layer'].default
    frozen, max_epochs = neck.get('freeze_last_layer', default), train_cfg.get('max_epochs')
    key = f'model.neck.freeze_last_layer={frozen}'
    if not _is_number(frozen) or not frozen:
        return
    if max_epochs is None and 'max_iters' in train_cfg:
        raise UserError(
            f'{key} counts epochs, but the training loop counts iterations: set it to 0, or set '
            'train_cfg.by_epoch=True and max_epochs'
        )
    if _is_number(max_epochs) and frozen >= max_epochs:
        raise UserError(
            f'{key} freezes the prototypes to the end: the run has {max_epochs} '
            f'epoch{"s" * (max_epochs != 1)} (train_cfg.max_epochs); set it to less'
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _schedules(node: object, key: str) -> Iterator[tuple[str, dict]]:
    if isinstance(node, dict):
        kind = node.get('type')
        if isinstance(kind, str) and kind in SCHEDULES:
            yield key, node
        children = node.items()
    else:
        children = enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in children:
        yield from _schedules(child, f'{key}.{name}')
