import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_checkpoint

from poslabel_mm import UserError, compat

ROOT = Path(__file__).resolve().parents[1]

ONEDL = {
    'onedl-mmpretrain': '1.3.6',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6'
}
OPENMMLAB = {
    'mmpretrain': '1.2.0',
    'mmengine': '0.10.7',
    'mmcv-lite': '2.2.0',
    'setuptools': '79.0.1'
}


@pytest.mark.parametrize('installed, stack', [
    (ONEDL, 'onedl'),
    # Every environment has setuptools; only OpenMMLab's stack bounds it.
    ({**ONEDL, 'setuptools': '84.2.1'}, 'onedl'),
    (OPENMMLAB, 'openmmlab'),
    ({'mmpretrain': '1.2.0', 'mmengine': '0.10.7', 'mmcv': '2.1.0',
      'setuptools': '81.0.0'}, 'openmmlab'),
])
def test_stack_in_range(installed, stack):
    assert compat.check_stack(installed) == stack


@pytest.mark.parametrize('installed, told', [
    ({}, ['found none', "pip install 'onedl-mmpretrain>=1.3.6,<1.4'"]),
    ({'setuptools': '84.2.1'}, ['found none']),
    ({**ONEDL, 'mmengine': '0.10.7'},
     ['two MM stacks', 'pip uninstall -y onedl-mmpretrain', 'mmengine']),
    ({**ONEDL, 'onedl-mmpretrain': '1.4.0'},
     ['onedl-mmpretrain 1.4.0 is not >=1.3.6,<1.4', "'onedl-mmcv>="]),
    ({'onedl-mmpretrain': '1.3.6', 'onedl-mmcv': '2.3.6'},
     ['onedl-mmengine is missing']),
    ({**OPENMMLAB, 'mmengine': '0.10.4'},
     ['mmengine 0.10.4 is not >=0.10.7,<1', "'mmcv-lite>="]),
    ({**OPENMMLAB, 'setuptools': '82.0.0'}, ['setuptools 82.0.0 is not <82']),
    ({'mmpretrain': '1.2.0', 'mmengine': '0.10.7', 'mmcv': '1.7.0',
      'setuptools': '79.0.1'}, ['mmcv 1.7.0 is not']),
])
def test_stack_problem_is_one_line(installed, told):
    with pytest.raises(ImportError) as caught:
        compat.check_stack(installed)
    message = str(caught.value)
    assert '\n' not in message
    for part in told:
        assert part in message


def test_bare_python_is_told_what_to_install():
    # -I -S: no site-packages, hence neither a stack nor torch nor packaging.
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c',
         f'import sys; sys.path.insert(0, {str(ROOT)!r}); import poslabel_mm'],
        capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        'ImportError: poslabel_mm needs MMPretrain and found none: pip install')


# A package named torchvision that does what the real one does with its
# operators: its library may load and define nms, or not; then it needs nms.
TORCHVISION = """
import torch
if {library_loads}:
    library = torch.library.Library('torchvision', 'DEF')
    for name in 'nms', 'qnms':
        library.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
from . import ops
"""
OPS = """
import torch
for name in 'nms', 'qnms':
    torch.library.register_fake('torchvision::' + name)(lambda *args: args[0])
"""


@pytest.mark.parametrize('library_loads', [True, False])
def test_torchvision_without_its_library(tmp_path, library_loads):
    package = tmp_path / 'torchvision'
    package.mkdir()
    (package / '__init__.py').write_text(
        TORCHVISION.format(library_loads=library_loads))
    (package / 'ops.py').write_text(OPS)
    done = subprocess.run(
        [sys.executable, '-c',
         'import poslabel_mm.compat as compat, torchvision\n'
         'print(torchvision.__file__, torchvision.ops.torch is not None)\n'
         'print(compat._torchvision_schemas is None)'],
        capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'})
    assert done.returncode == 0, done.stderr
    imported, untouched = done.stdout.splitlines()
    assert imported == f'{package / "__init__.py"} True'
    # A torchvision that works is left alone.
    assert untouched == str(library_loads)


class _Runs:
    """Unpickles by calling a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_checkpoint_with_code_is_refused(tmp_path):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'ran'
    torch.save({'state_dict': {}, 'x': _Runs(os.mkdir, str(trace))}, path)
    with pytest.raises(UserError) as caught:
        CheckpointLoader.load_checkpoint(str(path))
    message = str(caught.value)
    assert f'checkpoint {path} refused' in message
    assert 'mkdir' in message
    assert '\n' not in message
    # Also where a caller asks torch outright to trust the file.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    # And through what models and runners call.
    with pytest.raises(UserError):
        load_checkpoint(torch.nn.Linear(1, 1), str(path))
    assert not trace.exists()


def test_a_trusted_file_can_still_be_loaded(tmp_path, monkeypatch):
    path, trace = tmp_path / 'trusted.pth', tmp_path / 'ran'
    torch.save({'x': _Runs(os.mkdir, str(trace))}, path)
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    compat.refuse_code_in_checkpoints()
    with pytest.warns(UserWarning, match='TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        CheckpointLoader.load_checkpoint(str(path))
    assert trace.exists()


def _resumable():
    buffer = HistoryBuffer()
    for value in 1.0, 2.5, 4.0:
        buffer.update(value)
    return {
        'state_dict': {'weight': torch.ones(2)},
        'message_hub': {'log_scalars': {'train/loss': buffer}},
        'lr': np.float64(0.1),
        'rng': [np.ones(4, dtype=t) for t in ('u4', 'i8', 'f4', '?')],
    }


def test_checkpoint_for_resuming_loads(tmp_path):
    path = str(tmp_path / 'epoch_1.pth')
    torch.save(_resumable(), path)
    loaded = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    buffer = loaded['message_hub']['log_scalars']['train/loss']
    assert buffer.statistics('mean') == 2.5
    assert buffer.statistics('max') == 4.0
    assert [a.tolist() for a in loaded['rng']] == [
        a.tolist() for a in _resumable()['rng']]
    # MMPretrain's publish_model reads checkpoints with bare torch.load.
    assert torch.load(path)['lr'] == 0.1


def test_checkpoint_written_under_the_other_numpy_loads(tmp_path):
    stored = io.BytesIO()
    torch.save(_resumable(), stored, _use_new_zipfile_serialization=False)
    ours, other = b'numpy._core.', b'numpy.core.'
    if ours not in stored.getvalue():
        ours, other = other, ours
    assert ours in stored.getvalue()
    path = tmp_path / 'other_numpy.pth'
    path.write_bytes(stored.getvalue().replace(ours, other))
    assert CheckpointLoader.load_checkpoint(str(path))['lr'] == 0.1


@pytest.mark.parametrize('owner, name', [
    (HistoryBuffer, '__init__'),
    (HistoryBuffer, 'register_statistics'),
    (np.ndarray, 'tofile'),
])
def test_getattr_yields_statistics_methods_only(tmp_path, owner, name):
    path = str(tmp_path / 'evil.pth')
    torch.save({'x': _Runs(getattr, owner, name)}, path)
    with pytest.raises(UserError, match='refused: it holds builtins.getattr'):
        CheckpointLoader.load_checkpoint(path)


def _truncated():
    stored = io.BytesIO()
    torch.save(_resumable(), stored)
    return stored.getvalue()[:-400]


@pytest.mark.parametrize('content', [
    _truncated(), _truncated()[:1000], b'', b'\x00' * 300, b'not a checkpoint\n',
    b'\x80\x02.'
], ids=['tail', 'head', 'empty', 'zeros', 'text', 'pickle'])
def test_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / 'broken.pth'
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        CheckpointLoader.load_checkpoint(str(path))
    assert f'checkpoint {path} cannot be read' in str(caught.value)
    assert '\n' not in str(caught.value)


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match='gone.pth does not exist'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'gone.pth'))


def test_applying_again_changes_nothing(tmp_path):
    compat.apply()
    test_checkpoint_for_resuming_loads(tmp_path)


@pytest.mark.parametrize('zipped', [True, False])
def test_tensors_stay_on_the_disk_where_the_format_allows(
        tmp_path, monkeypatch, zipped):
    path = str(tmp_path / 'epoch_1.pth')
    torch.save(_resumable(), path, _use_new_zipfile_serialization=zipped)
    asked, load = [], torch.load
    monkeypatch.setattr(
        torch, 'load',
        lambda *args, **kwargs: asked.append(kwargs) or load(*args, **kwargs))
    loaded = compat.load_from_local(path, 'cpu', mmap=True)
    assert asked[0]['mmap'] is zipped
    assert torch.equal(loaded['state_dict']['weight'], torch.ones(2))
