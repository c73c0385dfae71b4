"""Imports go one way, as CONTRIBUTING.md says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'poslabel_mm'


def layers():
    """The layer of each room, from the bottom; files of the root that are not named are on top."""
    text = (ROOT / 'CONTRIBUTING.md').read_text('utf-8').partition('Imports go one way')[2]
    sides = text.partition('.\n')[0].split('←')
    return {
        room: layer for layer, side in enumerate(sides) for room in re.findall(r'`(\w+)', side)
    }


def imported(path):
    """The rooms that a file of the package imports from."""
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            start = '.'.join([*above, *filter(None, [node.module])])
            names = [f'{start}.{alias.name}' for alias in node.names]
        else:
            continue
        yield from (name.split('.')[1] for name in names if name.startswith('poslabel_mm.'))


def test_every_room_has_a_layer():
    rooms = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert len(rooms) > 8 and rooms <= set(layers())


def test_rooms_import_from_lower_layers_only():
    layer_of = layers()
    wrong = [
        f'{path.relative_to(ROOT)} imports from {room}'
        for path in PACKAGE.glob('[!.]*/**/*.py')
        if path.name != '__main__.py'  # an entry point
        for own in [path.relative_to(PACKAGE).parts[0]]
        for room in imported(path)
        if room != own and (PACKAGE / room).with_suffix('.py').exists() | (PACKAGE / room).is_dir()
        if layer_of.get(room, len(layer_of)) >= layer_of[own]
    ]
    assert not wrong
