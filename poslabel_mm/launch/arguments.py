"""The arguments of MMPretrain's tools: finding the config, and checking the options."""

import argparse
import ast
import copy
import os.path as osp
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from mmengine.config import Config, DictAction

from poslabel_mm.engine.cpu import check_launcher
from poslabel_mm.errors import UserError
from poslabel_mm.launch.cpu_threads import share_cores
from poslabel_mm.launch.port import choose_port
from poslabel_mm.launch.stock_arguments import with_data_option
from poslabel_mm.launch.vis_backends import keep_local_backend, make_room_for_backends
from poslabel_mm.stack.config_prefix import config_path


def checked_arguments(stock_parse: Callable) -> Callable:
    """Wrap a stock tool's ``parse_args``, so that wrong arguments are one line.

    Args:
        stock_parse (callable): Returns the arguments of ``sys.argv``.

    Returns:
        callable: Returns the same, with ``config`` the path of an existing file; raises
        :class:`UserError` for a malformed option or a config that cannot be found or parsed.
    """

    stock_parse = with_data_option(stock_parse)

    @wraps(stock_parse)
    def parse_args() -> argparse.Namespace:
        try:
            args = stock_parse()
        except (ValueError, AssertionError) as error:
            raise _malformed(values_of('--cfg-options', sys.argv), error) from error
        choose_port(args.launcher)
        check_launcher(args.launcher)
        share_cores(args.launcher)
        args.config = find_config(args.config)
        _check_syntax(args.config)
        return args

    return parse_args


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """The values of ``--cfg-options`` in a command that is no stock tool.

    Args:
        words (Sequence[str]): KEY=VALUE, as they were typed.

    Returns:
        dict[str, Any]: Values by their keys, read as MMEngine reads them.

    Raises:
        UserError: If one is malformed.
    """
    parsed = argparse.Namespace(cfg_options=None)
    try:
        DictAction(['--cfg-options'], 'cfg_options')(None, parsed, list(words))
    except (ValueError, AssertionError) as error:
        raise _malformed(words, error) from error
    return parsed.cfg_options


def _malformed(words: Sequence[str], error: Exception) -> UserError:
    # DictAction splits at the first `=` and counts brackets.
    wrong = [text for text in words if '=' not in text]
    return UserError(
        f'--cfg-options takes KEY=VALUE pairs, got {" ".join(wrong) or error}; quote a value with '
        'brackets or spaces: --cfg-options "key=[a,b]"'
    )


def read_config(name: str, words: Sequence[str] | None) -> Config:
    """The config of a command that is no stock tool, with its options merged.

    Args:
        name (str): Path of a config, or the name of a shipped one.
        words (Sequence[str], optional): The ``--cfg-options``, as they were typed.

    Returns:
        Config: The config.

    Raises:
        UserError: If there is no such config, or an option is malformed or does not fit it.
    """
    cfg = Config.fromfile(find_config(name))
    if words:
        options = parse_options(words)
        make_room_for_backends(cfg, options)
        check_options(cfg, argparse.Namespace(config=name, cfg_options=options))
        cfg.merge_from_dict(options)
        keep_local_backend(cfg, options)
    return cfg


def values_of(option: str, argv: Sequence[str]) -> list[str]:
    """The words that follow an option, up to the next one."""
    values: list[str] = []
    taking = False
    for text in argv:
        if text.startswith('--'):
            taking = text == option
        elif taking:
            values.append(text)
    return values


def find_config(name: str) -> str:
    """Find the config that a user names.

    Args:
        name (str): A path, or the name of a shipped config.

    Returns:
        str: Path of the file.

    Raises:
        UserError: If there is none, with the closest names, or if the file is no config.
    """
    if osp.isdir(name) or (
        osp.isfile(name) and not name.endswith(('.py', '.json', '.yaml', '.yml'))
    ):
        raise UserError(f'{name} is no config: expected a .py file')
    if osp.isfile(name):
        return name
    # Of a path that does not exist the last part may be a shipped name.
    try:
        return config_path(name)
    except UserError as error:
        hint = str(error).partition(': ')[2]
    try:
        config_path(osp.basename(name))
        hint = f'did you mean {osp.basename(name)}?'
    except UserError as error:
        hint = str(error).partition(': ')[2] or hint
    raise UserError(f'config {name} does not exist: {hint}')


def _check_syntax(path: str) -> None:
    """Refuse a config that is not Python, with its line: MMEngine names neither."""
    if path.endswith('.py'):
        try:
            with open(path, encoding='utf-8') as file:
                ast.parse(file.read())
        except SyntaxError as error:
            raise UserError(f'config {path}, line {error.lineno}: {error.msg}') from error


def shipped_config(text: str) -> str | None:
    """The path of a shipped config, or None if the text names none or is an existing path."""
    if text.startswith('-') or osp.exists(text) or not text.endswith('.py'):
        return None
    try:
        return config_path(text)
    except UserError:
        return None


def check_options(cfg: Config, args: argparse.Namespace) -> None:
    """Refuse ``--cfg-options`` that cannot be merged into the config.

    Args:
        cfg (Config): The config; it is not changed.
        args (argparse.Namespace): The tool's arguments, with ``config`` and ``cfg_options``.

    Raises:
        UserError: With the options and the reason.
    """
    if args.cfg_options is None:
        return
    try:
        copy.deepcopy(cfg).merge_from_dict(args.cfg_options)
    except (KeyError, TypeError, IndexError, AssertionError) as error:
        text = ' '.join(values_of('--cfg-options', sys.argv))
        reason = error.args[0] if error.args else error
        raise UserError(f'--cfg-options {text} does not fit {args.config}: {reason}') from error
