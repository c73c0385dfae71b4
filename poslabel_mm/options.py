"""Checks of a config's options: of what type they are, and in what range.

Each check returns the option's value and refuses any other with an
:class:`OptionError`, which names the option. Whoever builds the module that
took the option says where in the config it stands, with :func:`within`.
"""

import inspect
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from poslabel_mm.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class OptionError(UserError):
    """An option that a module cannot be built with.

    Args:
        key (str): The option, such as 'grid_size', or its whole key in the
            config, such as 'model.pos_head.1.grid_size'.
        text (str): What follows the key in the message.
    """

    def __init__(self, key: str, text: str = '') -> None:
        super().__init__(key, text)
        self.key, self.text = key, text

    def __str__(self) -> str:
        return self.key + self.text


def wrong(key: str, value: object, reason: str) -> OptionError:
    """The error ``key=value reason``, with a long value cut short."""
    try:
        shown = ' '.join(_SHORT.repr(value).split())
    except ValueError:  # Python refuses to write out integers of thousands of digits
        shown = f'<{type(value).__name__}>'
    return OptionError(key, f'={shown} {reason}')


@contextmanager
def within(path: str) -> Iterator[None]:
    """Put a path such as 'model.pos_head.1' in front of the keys of the errors raised inside.

    A key that begins with 'model.' is whole already.
    """
    try:
        yield
    except OptionError as error:
        if error.key.startswith('model.'):
            raise
        raise OptionError(f'{path}.{error.key}', error.text) from error


def plain(value: object) -> object:
    """The Python number that a scalar of numpy or torch holds; anything else as it is."""
    if getattr(value, 'ndim', None) == 0 and hasattr(value, 'item'):
        return value.item()
    return value


def whole_number(key: str, value: object, least: int = 1, most: int | None = None) -> int:
    """A whole number, also as a scalar of numpy or torch. True and 4.0 are none.

    Args:
        key (str): The option's name.
        value (int): Its value.
        least (int): The smallest that is accepted. Defaults to 1.
        most (int, optional): The largest. Defaults to None: any.

    Returns:
        int: The value.

    Raises:
        OptionError: If it is no whole number, or out of range.
    """
    bare = plain(value)
    if (
        isinstance(bare, bool)
        or not isinstance(bare, int)
        or bare < least
        or most is not None
        and bare > most
    ):
        to = ' on' if most is None else f' to {most}'
        raise wrong(key, value, f'is refused: set it to a whole number from {least}{to}')
    return bare


def number(key: str, value: object, least: float, most: float) -> float:
    """A finite number, also as a scalar of numpy or torch. True and NaN are none.

    Args:
        key (str): The option's name.
        value (float): Its value.
        least (float): The smallest that is accepted.
        most (float): The largest.

    Returns:
        float: The value.

    Raises:
        OptionError: If it is no number, or out of range.
    """
    bare = plain(value)
    if isinstance(bare, bool) or not isinstance(bare, (int, float)) or not least <= bare <= most:
        raise wrong(key, value, f'is refused: set it to a number from {least:g} to {most:g}')
    return bare


def inner_number(key: str, value: object, low: float, high: float) -> float:
    """A finite number between two that it must not reach.

    Args:
        key (str): The option's name.
        value (float): Its value.
        low (float): What it has to be above.
        high (float): What it has to be below.

    Returns:
        float: The value.

    Raises:
        OptionError: If it is no number, or out of range.
    """
    try:
        bare = number(key, value, low, high)
    except OptionError:
        bare = low
    if bare in (low, high):
        reason = f'is refused: set it to a number above {low:g} and below {high:g}'
        raise wrong(key, value, reason)
    return bare


def fraction(key: str, value: object) -> float:
    """A number from 0 on, below 1.

    Raises:
        OptionError: If it is another.
    """
    bare = plain(value)
    if isinstance(bare, bool) or not isinstance(bare, (int, float)) or not 0 <= bare < 1:
        raise wrong(key, value, 'is refused: set it to a number from 0 on, below 1')
    return bare


def choice(key: str, value: object, choices: Sequence[str]) -> str:
    """One of several names.

    Raises:
        OptionError: If it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise wrong(key, value, f'is unknown; choose from {list(choices)}')
    return value


def flag(key: str, value: object) -> bool:
    """True or False, also as 1 or 0.

    Raises:
        OptionError: If it is another value. A text is none: 'False' would count as true.
    """
    bare = plain(value)
    if not isinstance(bare, int) or bare not in (0, 1):
        raise wrong(key, value, 'is refused: set it to True or False')
    return bool(bare)


def patch_grid(key: str, value: object) -> tuple[int, int]:
    """A patch grid as ``(H, W)``; a whole number is a square grid.

    Raises:
        OptionError: If it is not one or two positive whole numbers.
    """
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    try:
        H, W = (whole_number(key, side) for side in sides)
    except ValueError:
        raise wrong(
            key, value, 'is refused: a patch grid is a positive int or a pair (H, W) of them'
        ) from None
    return H, W


def init_cfg(key: str, value: object) -> object:
    """An initialisation as MMEngine takes it: None, a dict with a type, or a list of them.

    Raises:
        OptionError: If it is anything else. What stands in the dicts is MMEngine's to judge.
    """
    if value is None or isinstance(value, dict) and not value:
        return value
    for cfg in value if isinstance(value, list) else [value]:
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise wrong(
                key,
                value,
                'is refused: set it to None, a dict with a type, or a list of such dicts',
            )
    return value


def part(key: str, value: object, kinds: Mapping[str, Callable]) -> object:
    """What a dict with a type describes.

    Args:
        key (str): The option's name.
        value (dict): A dict with a type; the rest of it are the type's arguments.
        kinds (Mapping[str, Callable]): What makes each type.

    Returns:
        object: What the type's maker returns.

    Raises:
        OptionError: If it is no dict, or of a type, or with an argument, that is not known or
            missing, and as the maker does; the key then has the argument's name.
    """
    if not isinstance(value, dict) or 'type' not in value:
        raise wrong(key, value, 'is refused: set it to a dict with a type')
    arguments = dict(value)
    with within(key):
        make = kinds[choice('type', arguments.pop('type'), list(kinds))]
        known = inspect.signature(make).parameters
        for name in arguments:
            if name not in known:
                raise OptionError(str(name), f' is unknown; choose from {list(known)}')
        for name, parameter in known.items():
            if name not in arguments and parameter.default is parameter.empty:
                raise OptionError(name, ' is missing')
        return make(**arguments)
