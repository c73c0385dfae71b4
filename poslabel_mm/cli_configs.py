"""``poslabel list`` and ``poslabel config``: the shipped configs."""

import ast
import difflib
import fnmatch
import posixpath
from collections.abc import Sequence
from pathlib import Path

from .arguments import Parser
from .errors import UserError
from .stack.config_prefix import PREFIX, ROOT, config_path, list_configs


def list_main(argv: Sequence[str], prog: str = 'poslabel list') -> int:
    """Print the names of the shipped configs, and what each one is.

    Raises:
        UserError: If no name matches.
    """
    parser = Parser(prog, 'The shipped configs, each with the first line of its header.')
    parser.add_argument(
        'pattern', nargs='?', default='*', help="such as '*_apl_*'; default: all of them"
    )
    pattern = parser.parse_args(argv).pattern
    names = [
        name
        for name in list_configs()
        if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.removesuffix('.py'), pattern)
    ]
    if not names:
        close = difflib.get_close_matches(pattern, list_configs(), n=3, cutoff=0.5)
        hint = f': did you mean {" or ".join(close)}?' if close else ''
        raise UserError(f'no config is named {pattern}{hint}')
    width = max(map(len, names))
    for name in names:
        print(f'{name:<{width}}  {_title(ROOT / name)}'.rstrip())
    return 0


def _title(path: Path) -> str:
    """The first sentence of a config's header."""
    lines = []
    for line in path.read_text('utf-8').splitlines():
        if not line.startswith('#') or line.startswith('#  '):
            break
        lines.append(line.lstrip('# '))
        if line.endswith(('.', ':')):
            break
    return ' '.join(lines).partition('. ')[0].rstrip('.:')


def config_main(argv: Sequence[str], prog: str = 'poslabel config') -> int:
    """Print the path of a shipped config, or copy it.

    Raises:
        UserError: If there is no such config, or a file would be overwritten.
    """
    parser = Parser(prog, 'The path of a shipped config, for tools that take a path.')
    parser.add_argument('name', help='such as vit-b_apl_in1k')
    parser.add_argument(
        '--copy',
        type=Path,
        metavar='DIR',
        help='copy the config into a folder, to be edited there; its bases stay the shipped ones',
    )
    args = parser.parse_args(argv)
    source = config_path(args.name)
    print(source if args.copy is None else copy_config(Path(source), args.copy))
    return 0


def copy_config(source: Path, folder: Path) -> Path:
    """Copy a shipped config into a folder of the user's.

    Its ``_base_`` names, which are relative to where it was, become ``poslabel_mm::`` names.

    Returns:
        Path: The copy.

    Raises:
        UserError: If there is a file of that name, or the folder cannot be written.
    """
    target = folder / source.name
    if target.exists():
        raise UserError(f'{target} exists: name another folder, or remove it')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target.write_text(_with_absolute_bases(source), 'utf-8')
    except OSError as error:
        raise UserError(f'{target} cannot be written: {error.strerror}') from error
    return target


def _with_absolute_bases(source: Path) -> str:
    text = source.read_text('utf-8')
    here = source.parent.relative_to(ROOT).as_posix()
    assigned = [
        node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == '_base_'
    ]
    names = [
        node.value
        for value in assigned
        for node in ast.walk(value)
        if isinstance(node, ast.Constant) and '::' not in str(node.value)
    ]
    for name in names:
        shipped = PREFIX + posixpath.normpath(posixpath.join(here, name))
        text = text.replace(repr(name), repr(shipped), 1)
    return text
