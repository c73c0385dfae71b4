"""The table in poslabel_mm.stack lists every change to a module that is not ours."""

import ast
import re
from pathlib import Path

from poslabel_mm import stack

PACKAGE = Path(stack.__file__).parents[1]
FORCING = 'register_backend', 'register_scheme', 'register_module', 'filterwarnings'


def changes(path: Path) -> list[str]:
    """The statements of a module that change what it imports from elsewhere.

    These are assignments to attributes, ``setattr``, forced registrations, and warnings filters
    outside of ``catch_warnings``.
    """
    tree = ast.parse(path.read_text())
    foreign, found = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign |= {(alias.asname or alias.name).partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if not (node.module or '').startswith('poslabel_mm'):
                foreign |= {alias.asname or alias.name for alias in node.names}
    temporary = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and 'catch_warnings' in ast.unparse(node.items[0])
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        set_names = [ast.unparse(t) for t in targets if isinstance(t, ast.Attribute)]
        roots = {name.partition('.')[0] for name in set_names if name != 'sys.argv'}
        called = ast.unparse(node.func).rpartition('.')[2] if isinstance(node, ast.Call) else ''
        forced = called == 'filterwarnings' or any(
            key.arg == 'force' for key in getattr(node, 'keywords', ())
        )
        ours = isinstance(node, ast.Call) and 'poslabel_mm' in ast.unparse(node)
        if (
            foreign.intersection(roots)
            or called in FORCING
            and forced
            and not ours
            or called == 'setattr'
        ):
            if node not in temporary:
                found.append(ast.unparse(node))
    return found


def test_every_change_is_listed():
    changed = {path: lines for path in PACKAGE.rglob('*.py') if (lines := changes(path))}
    names = {path.stem for path in changed}
    assert names >= {'config_prefix', 'image_errors', 'init_cfg', 'safe_loading', 'work_dir'}
    for path, lines in changed.items():
        assert re.search(rf'\.{path.stem}\b', stack.__doc__), (path, lines)


def test_the_table_names_modules_that_exist():
    in_stack = re.findall(r':mod:`\.(\w+)`', stack.__doc__)
    elsewhere = re.findall(r':mod:`poslabel_mm\.([\w.]+)`', stack.__doc__)
    elsewhere += re.findall(r'``((?:launch|engine)\.[\w.]+)``', stack.__doc__)
    assert len(in_stack) > 8 and len(elsewhere) > 4
    for name in [f'stack.{name}' for name in in_stack] + elsewhere:
        path = PACKAGE / name.replace('.', '/')
        assert path.is_dir() or path.with_suffix('.py').is_file(), name
