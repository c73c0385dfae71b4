"""Shipped configs by name: ``_base_ = 'poslabel_mm::vit-b_apl_in1k.py'``.

MMEngine knows such a prefix for OpenMMLab's own packages only, wants a ``/``
in the name, and stamps every inherited dict with ``_scope_``. Here a name is
just a path, so inheriting by name equals inheriting by relative path.
"""

import difflib
import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poslabel_mm.errors import UserError

PREFIX = 'poslabel_mm::'

# Where MMEngine knows another name than that of the distribution which works with poslabel_mm.
INSTALLED_BY = {'mmdet': 'onedl-mmdetection', 'mmseg': 'onedl-mmsegmentation'}

# A link to the checkout's configs/, or the wheel's copy of them.
ROOT = (Path(__file__).parents[1] / '.mim' / 'configs').resolve()


class MissingPackage(UserError, ModuleNotFoundError):
    """The package of another project that one of our modules is for is not installed."""


def missing_package(module: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """What to raise in place of an error of a module's imports.

    Args:
        module (str): The name of the module of ours.
        error (ModuleNotFoundError): What its imports raised.

    Returns:
        ModuleNotFoundError: A :class:`MissingPackage`; or the error itself, where the package
        is there and lacks a part, as MMCV without its operators does.
    """
    name = (error.name or '').partition('.')[0]
    if not name or importlib.util.find_spec(name) is not None:
        return error
    package = INSTALLED_BY.get(name, name)
    line = f'{module} needs {name}, which is not installed: pip install {package}'
    return MissingPackage(line)


def list_configs() -> list[str]:
    """Names of the shipped experiments, sorted.

    Files under ``_base_`` are left out; :func:`config_path` finds them too.
    """
    return [name for name in _all_configs() if '_base_' not in name.split('/')]


def _all_configs() -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for p in ROOT.rglob('*.py'))


def config_path(name: str) -> str:
    """Absolute path of a shipped config.

    For launchers that never import poslabel_mm, MMEngine evaluates
    ``_base_ = __import__('poslabel_mm').config_path('vit-b_apl_in1k.py')``.

    Args:
        name (str): Path below ``configs/``; ``.py`` may be left out.

    Returns:
        str: The path.

    Raises:
        UserError: If there is no such config; lists the closest names.
    """
    filename = name if name.endswith('.py') else f'{name}.py'
    known = _all_configs()
    if filename in known:
        return str(ROOT / filename)
    close = difflib.get_close_matches(filename, known, n=3, cutoff=0.5)
    hint = f'did you mean {" or ".join(close)}?' if close else '`poslabel list` lists them'
    raise UserError(f'poslabel_mm has no config {name!r}: {hint}')


def install() -> None:
    """Have :class:`mmengine.config.Config` read bases with the prefix ``poslabel_mm::``."""
    from mmengine.config import Config, utils
    from mmengine.utils import is_installed

    stock = Config._get_cfg_path
    if getattr(stock, 'prefix', None) == PREFIX:
        return

    # OneDL's distribution has another name; by the module's it is found whoever made it.
    if not is_installed(utils.MODULE2PACKAGE['mmseg']):
        utils.MODULE2PACKAGE['mmseg'] = 'mmseg'

    # Cached: for every base of another package MMEngine reads all of that package's metafiles.
    @functools.cache
    def external(cfg_path):
        try:
            return stock(cfg_path, '')
        except ModuleNotFoundError as error:
            package = cfg_path.partition('::')[0]
            name = INSTALLED_BY.get(package) or utils.MODULE2PACKAGE.get(package, package)
            raise UserError(
                f'the base {cfg_path} is a config of {package}, which is not installed: '
                f'pip install {name}'
            ) from error

    @functools.wraps(stock)
    def get_cfg_path(cfg_path, filename):
        if cfg_path.startswith(PREFIX):
            return config_path(cfg_path[len(PREFIX) :]), None
        if '::' in cfg_path:
            return external(cfg_path)
        return stock(cfg_path, filename)

    get_cfg_path.prefix = PREFIX
    Config._get_cfg_path = staticmethod(get_cfg_path)


@contextmanager
def without_own_scope() -> Iterator[None]:
    """A context in which configs are read without superfluous ``_scope_`` keys.

    MMEngine adds ``_scope_`` to every dict with a type that comes from a base with a prefix, such
    as ``mmpretrain::...``. Where it equals the config's own ``default_scope`` it is removed, so
    the config is what a relative path would give. It is always removed from a loader's functions,
    because MMEngine would pass it to them as an argument.
    """
    from mmengine.config import Config

    stock = Config.fromfile

    @functools.wraps(stock)
    def fromfile(*args, **kwargs):
        cfg = stock(*args, **kwargs)
        own = cfg.get('default_scope')
        for value in cfg.values():
            _remove_scope(value, own)
        for loader in 'train_dataloader', 'val_dataloader', 'test_dataloader':
            for name in 'collate_fn', 'worker_init_fn':
                function = (cfg.get(loader) or {}).get(name)
                if isinstance(function, dict):
                    function.pop('_scope_', None)
        return cfg

    Config.fromfile = staticmethod(fromfile)
    try:
        yield
    finally:
        Config.fromfile = staticmethod(stock)


def _remove_scope(value: Any, scope: str | None) -> None:
    """Remove ``_scope_`` from a dict and what it holds, where it is this scope."""
    if isinstance(value, dict):
        if scope is not None and value.get('_scope_') == scope:
            del value['_scope_']
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for inner in value:
        _remove_scope(inner, scope)
