"""The notebooks run, and their committed outputs are there and small."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / 'examples' / 'notebooks'
NOTEBOOKS = sorted(FOLDER.glob('*.ipynb'))
EPOCHS, FEW_EPOCHS = 'EPOCHS = 30\n', 'EPOCHS = 4\n'


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == kind]


def test_both_are_there_and_formatted():
    assert [path.name for path in NOTEBOOKS] == ['digits.ipynb', 'your_images.ipynb']
    for arguments in ['format', '--check'], ['check']:
        ruff = [sys.executable, '-m', 'ruff', *arguments, str(FOLDER)]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_committed_and_small(path):
    assert path.stat().st_size < 200_000
    code = cells(path, 'code')
    assert [cell['execution_count'] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell['outputs']]
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 3
    assert {output['output_type'] for output in outputs} == {'stream', 'display_data'}
    assert {output['name'] for output in outputs if 'name' in output} == {'stdout'}
    # Nor a path of the machine that made them.
    assert not re.search(r'["\' ]/(tmp|home|root|work)/', path.read_text())


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = ''.join(''.join(cell['source']) for cell in cells(path, 'markdown'))
    targets = [target for target in re.findall(r'\]\(([^)#\s]+)', text) if ':' not in target]
    assert targets and all((FOLDER / target).exists() for target in targets)


@pytest.mark.slow
def test_they_run(tmp_path, record_property, monkeypatch):
    # In one kernel, which imports the stack once, and for fewer epochs.
    import nbformat
    from nbclient import NotebookClient

    first, second = (nbformat.read(path, 4) for path in NOTEBOOKS)
    first.cells += second.cells
    changed = 0
    for cell in first.cells:
        if cell.source.startswith(EPOCHS):
            cell.source = cell.source.replace(EPOCHS, FEW_EPOCHS)
            changed += 1
    assert changed == 2
    # tqdm, where transformers brings it, warns that its bars need ipywidgets; none is drawn here.
    monkeypatch.setenv('PYTHONWARNINGS', 'ignore:IProgress not found')
    place = dict(metadata=dict(path=str(tmp_path)))
    NotebookClient(first, kernel_name='python3', timeout=600, resources=place).execute()
    outputs = [output for cell in first.cells for output in cell.get('outputs', [])]
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 6
    assert not [output for output in outputs if output.get('name') == 'stderr']
    record_property('did', f'{len(NOTEBOOKS)} notebooks: {len(first.cells)} cells')
