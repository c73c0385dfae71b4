"""The place in a config of the part that could not be built, and the fault in it.

MMEngine's registries pass on what a part's constructor raises. The part's config is still in the
traceback, and that of the model around it.
"""

import inspect
import re
from collections.abc import Iterator
from difflib import get_close_matches
from types import FrameType, TracebackType

from mmengine.registry import build_from_cfg

from poslabel_mm.options import OptionError

_UNKNOWN = re.compile(r"([\w.]+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r'([\w.]+)\.__init__\(\) missing \d+ required .*arguments?: (.+)')


def build_error_line(error: BaseException) -> str | None:
    """One line on an option that a part's config has, lacks, or gives a wrong value.

    Args:
        error (BaseException): What building the part raised.

    Returns:
        str: The line, or None if the error is not the config's.
    """
    frames = list(_frames(error.__traceback__))
    builds = [i for i, frame in enumerate(frames) if frame.f_code is build_from_cfg.__code__]
    if not builds:
        return None
    path, cfg = _place([frames[i] for i in builds])
    if isinstance(error, OptionError):
        whole = error.key.startswith('model.') or not path
        return str(error) if whole else f'{path}.{error}'
    place = f'{path}: ' if path else ''
    if isinstance(error, KeyError) and builds[-1] == len(frames) - 1:
        # After the first sentence comes where MMEngine explains registries.
        return place + ' '.join(str(error.args[0]).partition('. Please ')[0].split())
    part = frames[builds[-1]].f_locals.get('obj_cls')
    if not isinstance(error, TypeError) or not inspect.isclass(part):
        return None
    unknown, missing = _UNKNOWN.match(str(error)), _MISSING.match(str(error))
    # A constructor of the part's own class or a parent's, not of what it makes in turn.
    if not any(
        match and match[1] in {cls.__qualname__ for cls in inspect.getmro(part)}
        for match in (unknown, missing)
    ):
        return None
    if unknown and unknown[2] in cfg:
        close = get_close_matches(unknown[2], _options_of(part), 1)
        hint = f'; did you mean {close[0]}?' if close else ''
        return f"{place}{part.__name__} takes no option '{unknown[2]}'{hint}"
    if missing and not any(key in cfg for key in re.findall(r"'(\w+)'", missing[2])):
        return f'{place}{part.__name__} lacks {missing[2]}'
    return None


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _place(builds: list[FrameType]) -> tuple[str, dict]:
    """The path of the part that was being built last, '' if it is in no model, and its config."""
    model, part = builds[0].f_locals, builds[-1].f_locals['cfg']
    if getattr(model['registry'], 'name', None) != 'model':
        return '', part
    return next((path for path, node in _nodes(model['cfg'], 'model') if node is part), ''), part


def _nodes(node: object, path: str) -> Iterator[tuple[str, object]]:
    yield path, node
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, (list, tuple))
        else ()
    )
    for key, value in items:
        yield from _nodes(value, f'{path}.{key}')


def _options_of(part: type) -> list[str]:
    """What the constructors of a class and its parents take by name."""
    return [
        name
        for cls in inspect.getmro(part)
        if '__init__' in vars(cls)
        for name in inspect.signature(cls.__init__).parameters
        if name != 'self'
    ]
