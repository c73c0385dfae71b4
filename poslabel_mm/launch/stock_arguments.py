"""The command lines of MMPretrain's tools, with one option more, and their help.

Nothing here imports the MM stack: help answers at once.
"""

import argparse
import ast
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path

from poslabel_mm.launch.stock_tools import list_tools, tool_path


class _Ignored(argparse.Action):
    """Takes the place of MMEngine's ``DictAction``, whose values a help page does not need."""

    def __call__(self, *args) -> None:
        pass


def train_main(argv: Sequence[str], prog: str) -> None:
    """Train a config with MMPretrain's ``tools/train.py``.

    Args:
        argv (Sequence[str]): Its arguments, which the tool itself reads from ``sys.argv``.
        prog (str): The command's name.
    """
    _print_help('train.py', argv)
    from poslabel_mm.launch.tools import train

    train()


def test_main(argv: Sequence[str], prog: str) -> None:
    """Test a checkpoint with MMPretrain's ``tools/test.py``; see :func:`train_main`."""
    _print_help('test.py', argv)
    from poslabel_mm.launch.tools import test

    test()


def tool_main(argv: Sequence[str], prog: str) -> None:
    """Run another of MMPretrain's tools with these arguments."""
    if argv[:1] in (['-h'], ['--help']):
        print(f'usage: {prog} TOOL [ARGUMENTS]\n\nTOOL is one of\n  ' + '\n  '.join(list_tools()))
        return
    from poslabel_mm.launch.tools import other_tool

    other_tool(list(argv), prog)


def _print_help(name: str, argv: Sequence[str]) -> None:
    """Print a tool's help and exit, if that is asked for, without the tool's imports.

    Of the tool's file nothing is run but ``parse_args``. If that needs more than the standard
    library, nothing happens here: the tool prints its help itself.
    """
    if not {'-h', '--help'} & set(argv):
        return
    path = tool_path(name)
    functions = [
        node
        for node in ast.parse(Path(path).read_text('utf-8')).body
        if isinstance(node, ast.FunctionDef) and node.name == 'parse_args'
    ]
    scope = dict(argparse=argparse, os=os, DictAction=_Ignored)
    exec(compile(ast.Module(functions, []), path, 'exec'), scope)
    try:
        with_data_option(scope['parse_args'])()
    except (KeyError, NameError):
        pass


def with_data_option(stock_parse: Callable[[], argparse.Namespace]) -> Callable:
    """Have MMPretrain's command line take ``--data DIR``, and its help say so.

    Args:
        stock_parse (Callable): ``parse_args`` of one of MMPretrain's tools.

    Returns:
        Callable: The same; what it returns has ``data`` too.
    """

    @wraps(stock_parse)
    def parse_args() -> argparse.Namespace:
        stock = argparse.ArgumentParser.parse_args

        def with_one_more(parser: argparse.ArgumentParser, *args, **kwargs) -> argparse.Namespace:
            parser.add_argument(
                '--data',
                metavar='DIR',
                help='the folder of train/<class>/<image> and test/ or val/ to use in place of '
                "the config's; the number of classes is read from it",
            )
            return stock(parser, *args, **kwargs)

        # The stock tools build their parsers inside the function.
        argparse.ArgumentParser.parse_args = with_one_more
        try:
            return stock_parse()
        finally:
            argparse.ArgumentParser.parse_args = stock

    return parse_args
