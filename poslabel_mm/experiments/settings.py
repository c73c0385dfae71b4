"""The settings of a run, and how those of two runs differ."""

import argparse
import copy
import functools
import importlib.metadata
import os.path as osp
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.utils import import_modules_from_strings

from poslabel_mm.errors import UserError, user_error_behind
from poslabel_mm.experiments.scale import Scale
from poslabel_mm.experiments.tiny import tiny_config
from poslabel_mm.launch.checks.class_names import LOADERS
from poslabel_mm.launch.checks.loops import whole_length
from poslabel_mm.launch.data_option import use_data
from poslabel_mm.launch.vis_backends import keep_local_backend, make_room_for_backends
from poslabel_mm.stack.compat import installed_versions
from poslabel_mm.stack.config_prefix import ROOT, config_path

# What a machine or a person needs, in options and configs, and no result depends on.
MACHINE = (
    'cache',
    'data_root',
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'prefetch_factor',
    'max_keep_ckpts',
)
# Of a config that a run has left behind, what tells one experiment from another.
EXPERIMENT = (
    'model',
    'data_preprocessor',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'randomness',
    'train_dataloader',
    'test_dataloader',
)
# What the launcher or the chain sets for the machine at hand.
LAUNCHED = ('batch_size', 'accumulative_counts', 'checkpoint', 'loss_scale', 'dtype', 'use_fsdp')
# What `mmpretrain::` stamps on inherited dicts; the tools take it back before they train.
SCOPE = '_scope_'
AMP = ('AmpOptimWrapper', 'mmengine.AmpOptimWrapper', 'poslabel_mm.CPUAmpOptimWrapper')


def config_file(name: str) -> str:
    """The path of a run's config: a shipped one's by its name below ``configs/``, or as it is.

    Raises:
        UserError: For a name without a folder that no shipped config has.
    """
    is_shipped = not osp.isabs(name) and (ROOT / name).is_file()
    return config_path(name) if is_shipped or not osp.dirname(name) else name


def read_config(path: str | Path) -> Config:
    """Read a config without its ``custom_imports``, which models need and settings do not."""
    return Config.fromfile(path, import_custom_modules=False)


def import_custom_modules(cfg: Config) -> None:
    """Import what ``custom_imports`` of a config names, as MMEngine does in reading it.

    Raises:
        UserError: If a module cannot be imported.
    """
    imports = cfg.get('custom_imports')
    if imports:
        try:
            import_modules_from_strings(**imports)
        except ImportError as error:
            reason = user_error_behind(error)
            where = '' if isinstance(reason, UserError) else f'custom_imports of {cfg.filename}: '
            raise UserError(f'{where}{reason}') from error


@functools.cache
def plain_config(name: str, scale: Scale) -> Config:
    """The config without options, at the size that it is run at. Not to be changed."""
    if scale.data is None:
        return read_config(config_file(name))
    return Config.fromstring(tiny_config(name, *scale), '.py')


def configured(
    name: str,
    scale: Scale,
    options: list[str],
    data: str | None = None,
    data_option: str = '--data',
) -> Config:
    """Read a config and merge options into it.

    Args:
        name (str): Name or path of the config.
        scale (Scale): The size that it is run at.
        options (list[str]): ``KEY=VALUE``, as for ``--cfg-options``.
        data (str, optional): The folder of images to use in place of its own. The config keeps
            its own where the folder is not there.
        data_option (str): Where the folder was given, for messages. Defaults to '--data'.

    Raises:
        UserError: If the options or the folder do not fit the config.
    """
    wrong = [option for option in options if '=' not in option]
    if wrong:
        raise UserError(f'options of {name} are KEY=VALUE pairs, got {" ".join(wrong)}')
    cfg = copy.deepcopy(plain_config(name, scale))
    # The list of what is done needs no images.
    if data is not None and osp.isdir(data):
        # Before the options are merged, as in the tools.
        use_data(cfg, name, data, LOADERS, called=data_option)
    parsed = argparse.Namespace(options=None)
    try:
        DictAction(['--options'], 'options')(None, parsed, options)
        make_room_for_backends(cfg, parsed.options)
        cfg.merge_from_dict(parsed.options)
        keep_local_backend(cfg, parsed.options)
        if cfg.train_cfg.get('max_epochs') is None:
            raise UserError(
                f'{name} has no train_cfg.max_epochs: only epoch-based runs can be tabulated'
            )
        # 3.0 is a length, but in no name of a checkpoint.
        cfg.train_cfg.max_epochs = whole_length('max_epochs', cfg.train_cfg.max_epochs)
        _ = cfg.model.backbone.type  # still there?
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        asked = [option for option in options if not option.startswith('randomness.seed=')]
        raise UserError(f'{" ".join(asked or options)} does not fit {name}: {error}') from error
    return cfg


def accumulation_of(cfg: Config) -> int:
    """The number of iterations of an optimizer step."""
    return cfg.optim_wrapper.get('accumulative_counts', 1)


def images_a_step(cfg: Config) -> int:
    """The number of images of an optimizer step in each process."""
    return cfg.train_dataloader.batch_size * accumulation_of(cfg)


def concerns_missing_loader(option: str, cfg: Config) -> bool:
    """Whether an option of the machine concerns a loader that a config lacks."""
    first, _, key = option.partition('=')[0].partition('.')
    return (
        key.rpartition('.')[2] in MACHINE
        and first.endswith('_dataloader')
        and (cfg.get(first) is None)
    )


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions: this package, Python, the MM stack and more distributions."""
    from poslabel_mm import __version__

    found = dict(poslabel_mm=__version__, python=platform.python_version())
    for name, version in installed_versions().items():
        if 'mm' in name:
            found[name] = version
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def comparable_settings(value: Any) -> Any:
    """Convert settings to what JSON returns, without those of the machine."""
    if isinstance(value, dict):
        return {
            str(k): comparable_settings(v)
            for k, v in value.items()
            if k not in (*MACHINE, *LAUNCHED, SCOPE)
        }
    if isinstance(value, (list, tuple)):
        return [comparable_settings(v) for v in value]
    if isinstance(value, str) and value in AMP:
        return AMP[0]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def first_difference(
    found: Any, expected: Any, only_of_second: bool = False, key: str = ''
) -> str:
    """Say where two settings differ first; empty if they do not.

    Args:
        found, expected: Results of :func:`comparable_settings`.
        only_of_second (bool): Pass over what only ``found`` has.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in _keys(found, expected, only_of_second):
            path = f'{key}.{name}' if key else name
            if name not in found:
                return f'without {path}'
            if name not in expected:
                return f'with {path}={found[name]!r}'
            text = first_difference(found[name], expected[name], only_of_second, path)
            if text:
                return text
        return ''
    if isinstance(found, list) and isinstance(expected, list) and (len(found) == len(expected)):
        pairs = enumerate(zip(found, expected))
        texts = (first_difference(a, b, only_of_second, f'{key}.{i}') for i, (a, b) in pairs)
        return next(filter(None, texts), '')
    if found == expected:
        return ''
    return f'{key}={found!r} and not {expected!r}'


def _keys(found: dict, expected: dict, only_of_second: bool) -> Iterator[str]:
    yield from expected
    if not only_of_second:
        yield from (name for name in found if name not in expected)
