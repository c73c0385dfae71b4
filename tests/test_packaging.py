"""The wheel and the sdist are whole, and the pins fit what they ask for."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from tiny_run import make_images

from poslabel_mm.stack.stacks import STACKS
from poslabel_mm.version import __version__

ROOT = Path(__file__).resolve().parents[1]

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))
"""


def _build(kind, source, target):
    # In the source's copy: setuptools leaves build/ and *.egg-info behind.
    done = subprocess.run(
        [sys.executable, '-c', BUILD, kind, str(target)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


def _untracked():
    """What Git ignores: other tests make and remove files there, such as `.dist_test/`."""
    lines = (ROOT / '.gitignore').read_text().split()
    return shutil.ignore_patterns('.git', *(line.strip('/') for line in lines))


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    """The sdist of a copy of the checkout, and the wheel made from that."""
    folder = tmp_path_factory.mktemp('packed')
    shutil.copytree(ROOT, folder / 'checkout', symlinks=True, ignore=_untracked())
    sdist = _build('sdist', folder / 'checkout', folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter='data')
    unpacked = folder / sdist.name.removesuffix('.tar.gz')
    return sdist, _build('wheel', unpacked, folder)


def _shipped():
    """Every file of configs/ and tools/, as a path in the package."""
    return {
        f'poslabel_mm/.mim/{path.relative_to(ROOT).as_posix()}': path.read_bytes()
        for folder in ('configs', 'tools')
        for path in (ROOT / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


def test_wheel_carries_configs_and_tools_as_files(packed):
    with zipfile.ZipFile(packed[1]) as wheel:
        names = set(wheel.namelist())
        for name, content in _shipped().items():
            assert wheel.read(name) == content
        # 0xA000 in a member's mode marks a link.
        assert not [i for i in wheel.infolist() if i.external_attr >> 28 == 0xA]
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'poslabel_mm').rglob('*.py')
        if '.mim' not in path.parts
    }
    assert modules <= names
    assert 'poslabel_mm/.mim/model-index.yml' in names
    assert not [n for n in names if n.startswith('tests/') or '__pycache__' in n]


def test_sdist_carries_configs_and_tools_as_files(packed):
    with tarfile.open(packed[0]) as sdist:
        root = f'poslabel_mm-{__version__}'
        for name in [*_shipped(), 'LICENSE', 'setup.py', 'pyproject.toml']:
            assert sdist.getmember(f'{root}/{name}').isreg()


def test_no_stack_is_required_without_its_extra(packed):
    with zipfile.ZipFile(packed[1]) as wheel:
        metadata = email.message_from_bytes(
            wheel.read(f'poslabel_mm-{__version__}.dist-info/METADATA')
        )
    assert metadata['Requires-Python'] == '>=3.10'
    required = [Requirement(r) for r in metadata.get_all('Requires-Dist')]
    plain = {r.name for r in required if r.marker is None}
    others = {'numpy', 'packaging', 'pillow', 'rich', 'scipy'}
    assert plain == {'torch', 'torchvision', *others}
    for stack, ranges in STACKS.items():
        extra = {
            r.name: r.specifier
            for r in required
            if r.marker and r.marker.evaluate({'extra': stack})
        }
        assert {k: Requirement(k + v).specifier for k, v in ranges.items()} == extra


def test_installed_wheel_finds_its_own_configs(packed, tmp_path):
    with zipfile.ZipFile(packed[1]) as wheel:
        wheel.extractall(tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            'from poslabel_mm import config_path\n'
            'from mmengine.config import Config\n'
            'path = config_path("vit-b_apl_in1k")\n'
            'print(path)\n'
            'print(Config.fromfile(path).model.type)\n'
            'from poslabel_mm.experiments.manifest import load_paper\n'
            'print(load_paper().table(7).row("mae").paper["top1"])\n'
            'from modelindex.load_model_index import load\n'
            'from poslabel_mm.stack.model_hub import INDEX\n'
            'print(load(str(INDEX)).models[0].config)',
        ],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        str(tmp_path / 'poslabel_mm/.mim/configs/vit-b_apl_in1k.py'),
        'poslabel_mm.PositionalLabelClassifier',
        '79.54',
        'configs/deit-b_apl_in1k.py',
    ], done.stderr


def test_the_tools_of_an_installed_wheel_run_from_anywhere(packed, tmp_path):
    with zipfile.ZipFile(packed[1]) as wheel:
        wheel.extractall(tmp_path / 'site')
    for (script, *arguments), line in {
        ('dataset_converters/imagenet.py', '--check', 'data'): 'data/train does not exist',
        ('torchrun.py',): 'usage is torchrun.py PROCESSES SCRIPT [ARGUMENTS]',
    }.items():
        done = subprocess.run(
            [sys.executable, tmp_path / 'site/poslabel_mm/.mim/tools' / script, *arguments],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and done.stdout == ''
        assert done.stderr.splitlines()[-1].startswith(f'error: {line}')


CLASSES = ('a', 'cat'), ('b', 'dog')  # the folders of `make_images`, and their labels
TINY = """
_base_ = './vit-b_apl_photos.py'
arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
model = dict(
    backbone=dict(arch=dict(_delete_=True, **arch)),
    head=dict(in_channels=16),
    pos_head=dict(in_channels=16, hidden_channels=16, feat_channels=16),
)
train_cfg = dict(max_epochs=1)
param_scheduler = []
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.mark.slow
def test_the_downstream_project_trains_with_an_installed_wheel(packed, tmp_path):
    """By the command of its README, but for a model that is as small as can be."""
    with zipfile.ZipFile(packed[1]) as wheel:
        wheel.extractall(tmp_path / 'site')
    project = tmp_path / 'project'
    shutil.copytree(ROOT / 'examples/downstream_project', project)
    (project / 'tiny.py').write_text(TINY)
    make_images(project / 'data', per_class=2)
    for split in 'train', 'val':
        rows = ''.join(f'{name}/{i}.png,{label}\n' for name, label in CLASSES for i in range(2))
        (project / f'data/{split}.csv').write_text('image,label\n' + rows)
    installed = tmp_path / 'poslabel'
    run = f'exec {sys.executable} -m poslabel_mm "$@"'
    installed.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/site:$PYTHONPATH {run}\n')
    installed.chmod(0o755)
    (command,) = re.findall('```bash\n(.*)\n```', (project / 'README.md').read_text('utf-8'))
    done = subprocess.run(
        ['bash', '-c', command.replace('vit-b_apl_photos.py', 'tiny.py')],
        cwd=project,
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (log,) = project.glob('work_dirs/tiny/*/vis_data/scalars.json')
    *steps, accuracy = map(json.loads, log.read_text().splitlines())
    assert len(steps) == 2 and all({'loss_cls', 'loss_apl'} <= set(step) for step in steps)
    assert 'accuracy/top1' in accuracy


def test_tools_are_entry_points_alone():
    for path in (ROOT / 'tools').rglob('*.py'):
        assert len(path.read_text().splitlines()) <= 40, path


def _pins(stack, python):
    environment = {**default_environment(), 'python_version': python}
    pins = {}
    for name in f'constraints-{stack}.txt', 'constraints-common.txt':
        for line in (ROOT / 'requirements' / name).read_text().splitlines():
            if line and not line.startswith(('#', '-c')):
                pin = Requirement(line)
                if pin.marker is None or pin.marker.evaluate(environment):
                    assert pin.name not in pins, f'{pin.name} is pinned twice'
                    pins[pin.name] = re.fullmatch('==([^=*]+)', str(pin.specifier))[1]
    return pins


@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12'])
@pytest.mark.parametrize('stack', STACKS)
def test_pins_are_complete_and_in_range(packed, stack, python):
    pins = _pins(stack, python)
    with zipfile.ZipFile(packed[1]) as wheel:
        metadata = email.message_from_bytes(
            wheel.read(f'poslabel_mm-{__version__}.dist-info/METADATA')
        )
    for requirement in map(Requirement, metadata.get_all('Requires-Dist')):
        if requirement.marker is None or any(
            requirement.marker.evaluate({'extra': extra}) for extra in (stack, 'tools', 'test')
        ):
            assert pins[requirement.name] in requirement.specifier, requirement
    assert (pins['torch'], pins['torchvision']) == ('2.13.0', '0.28.0')
