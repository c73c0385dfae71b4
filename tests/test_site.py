"""The documentation site is whole; `tools/build_docs.sh` builds it, with warnings as errors."""

import importlib
import importlib.util
import re
import runpy
from pathlib import Path

import pytest

from poslabel_mm import registry

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = {
    name
    for page in (ROOT / 'docs/api').glob('*.md')
    for name in re.findall(r'^::: (\S+)$', page.read_text('utf-8'), re.M)
}
PUBLIC = (
    'poslabel_mm.datasets',
    'poslabel_mm.engine.hooks',
    'poslabel_mm.models',
    'poslabel_mm.models.backbones',
    'poslabel_mm.models.losses',
    'poslabel_mm.tokens',
)
# Not for users: a table, a check of a backbone.
INTERNAL = {'REGRESSION_LOSSES', 'check_gradient'}


def found(path: str) -> object:
    """The object of a name that an API page documents."""
    parts = path.split('.')
    for cut in range(len(parts), 0, -1):
        module = '.'.join(parts[:cut])
        try:
            value = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f'{module}.'.startswith(f'{error.name}.'):
                raise  # a package that the module needs
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value


def documented_names() -> set[str]:
    return {name.rpartition('.')[2] for name in DOCUMENTED}


@pytest.mark.parametrize('kind', registry.__all__)
def test_every_registered_name_is_on_an_api_page(kind):
    node = getattr(registry, kind)
    node.import_from_location()
    names = {
        name
        for name, registered in node.module_dict.items()
        if registered.__module__.startswith('poslabel_mm')
    }
    assert names and names <= documented_names()


@pytest.mark.parametrize('room', PUBLIC)
def test_every_public_name_is_on_an_api_page(room):
    assert set(importlib.import_module(room).__all__) - INTERNAL <= documented_names()


def test_what_an_api_page_documents_is_there_and_has_a_docstring():
    for name in DOCUMENTED:
        toolbox = name.split('.')[1]
        if (
            toolbox in ('mmdet', 'mmseg', 'mmselfsup')
            and importlib.util.find_spec(toolbox) is None
        ):
            continue
        assert found(name).__doc__, name


def test_every_figure_of_the_objectives_is_drawn_and_shown(tmp_path):
    images = ROOT / 'docs/images'
    runpy.run_path(str(images / 'objectives.py'))['main'](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in images.glob('objective_*.png')}
    page = (ROOT / 'docs/objectives.md').read_text('utf-8')
    assert drawn == set(re.findall(r'\(images/(\w+\.png)\)', page))
