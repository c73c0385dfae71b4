import argparse
import io
import locale
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import load_checkpoint

from poslabel_mm import UserError
from poslabel_mm.engine.hooks.last_saved import last_saved, write_last_saved
from poslabel_mm.stack import checkpoint_file, compat, safe_loading

ROOT = Path(__file__).resolve().parents[1]

ONEDL = {'onedl-mmpretrain': '1.3.6', 'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6'}
OPENMMLAB = {
    'mmpretrain': '1.2.0',
    'mmengine': '0.10.7',
    'mmcv-lite': '2.2.0',
    'setuptools': '79.0.1',
}


@pytest.mark.parametrize(
    'installed, stack',
    [
        (ONEDL, 'onedl'),
        # Every environment has setuptools; only OpenMMLab's stack bounds it.
        ({**ONEDL, 'setuptools': '84.2.1'}, 'onedl'),
        (OPENMMLAB, 'openmmlab'),
        (
            {'mmpretrain': '1.2.0', 'mmengine': '0.10.7', 'mmcv': '2.1.0', 'setuptools': '81.0.0'},
            'openmmlab',
        ),
    ],
)
def test_stack_in_range(installed, stack):
    assert compat.check_stack(installed) == stack


@pytest.mark.parametrize(
    'installed, told',
    [
        ({}, ['found none', "pip install 'onedl-mmpretrain>=1.3.6,<1.4'"]),
        ({'setuptools': '84.2.1'}, ['found none']),
        (
            {**ONEDL, 'mmengine': '0.10.7'},
            ['two MM stacks', 'pip uninstall -y onedl-mmpretrain', 'mmengine'],
        ),
        (
            {**ONEDL, 'onedl-mmpretrain': '1.4.0'},
            ['onedl-mmpretrain 1.4.0 is not >=1.3.6,<1.4', "'onedl-mmcv>="],
        ),
        ({'onedl-mmpretrain': '1.3.6', 'onedl-mmcv': '2.3.6'}, ['onedl-mmengine is missing']),
        (
            {**OPENMMLAB, 'mmengine': '0.10.4'},
            ['mmengine 0.10.4 is not >=0.10.7,<1', "'mmcv-lite>="],
        ),
        ({**OPENMMLAB, 'setuptools': '82.0.0'}, ['setuptools 82.0.0 is not <82']),
        (
            {'mmpretrain': '1.2.0', 'mmengine': '0.10.7', 'mmcv': '1.7.0', 'setuptools': '79.0.1'},
            ['mmcv 1.7.0 is not'],
        ),
    ],
)
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
        [
            sys.executable,
            '-I',
            '-S',
            '-c',
            f'import sys; sys.path.insert(0, {str(ROOT)!r}); import poslabel_mm, mmengine',
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        'poslabel_mm.stack.compat.StackError: poslabel_mm needs MMPretrain and found none: '
    )


@pytest.mark.parametrize(
    'command',
    ['train x', 'test x y', 'tool x', 'reproduce --list', 'quickstart', 'pretrain-finetune'],
)
def test_every_command_in_a_bare_python_says_what_to_install(command):
    words = ['poslabel', *command.split()]
    script = (
        f'import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = {words}\n'
        'from poslabel_mm.cli import main; sys.exit(main())'
    )
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', script], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, '')
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: poslabel_mm needs MMPretrain and found none: pip install')


def test_convert_in_a_bare_python_says_what_to_install(tmp_path):
    """It needs Pillow and rich alone, but what brings the stack brings them."""
    for name in 'ab':
        for number in range(3):
            image = tmp_path / 'photos' / name / f'{number}.png'
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
    words = ['poslabel', 'convert', 'folder', 'photos', '--out', 'mine']
    script = (
        f'import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = {words}\n'
        'from poslabel_mm.cli import main; sys.exit(main())'
    )
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', script], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, '')
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: poslabel_mm needs MMPretrain and found none: pip install')
    assert os.listdir(tmp_path) == ['photos']


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


# No torch has been imported before, as where a user imports the plugin first.
IMPORT_TORCHVISION = """
import poslabel_mm.stack.torchvision_schemas as mended
import importlib.util
importlib.util.find_spec('torchvision')  # to look for it is not to import it
import torchvision
print(torchvision.__file__, torchvision.ops.torch is not None, mended._schemas is None)
"""


@pytest.mark.parametrize('library_loads', [True, False])
def test_torchvision_without_its_library(tmp_path, library_loads):
    package = tmp_path / 'torchvision'
    package.mkdir()
    (package / '__init__.py').write_text(TORCHVISION.format(library_loads=library_loads))
    (package / 'ops.py').write_text(OPS)
    done = subprocess.run(
        [sys.executable, '-c', IMPORT_TORCHVISION],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'},
    )
    assert done.returncode == 0, done.stderr
    # A torchvision that works is left alone.
    assert done.stdout.split() == [str(package / '__init__.py'), 'True', str(library_loads)]


class _Runs:
    """Unpickles by calling a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def _legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _tar(content, path):
    """As torch wrote before 0.1.10."""
    with tarfile.open(path, 'w') as archive:
        for name in 'sys_info', 'storages', 'tensors', 'pickle':
            data = pickle.dumps(content)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _bare(content, path):
    path.write_bytes(pickle.dumps(content))


def _by_address(prefix, folder, monkeypatch):
    """An address whose file, in a cache or of a client, is in a folder."""
    # Where downloads are kept.
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(folder))
    (folder / 'checkpoints').mkdir()
    shutil.copy(folder / 'evil.pth', folder / 'checkpoints')
    url = 'https://download.openmmlab.com/evil.pth'
    checkpoint = sys.modules['mmengine.runner.checkpoint']
    monkeypatch.setattr(checkpoint, 'get_mmcls_models', lambda: {'evil': url})
    monkeypatch.setattr(checkpoint, 'get_torchvision_models', lambda: {'evil': url})
    monkeypatch.setattr(checkpoint, '_get_mmengine_home', lambda: str(folder))
    monkeypatch.setattr(
        checkpoint, 'get_external_models', lambda: {'evil': url, 'local': 'evil.pth'}
    )
    client = SimpleNamespace(get=lambda path: (folder / 'evil.pth').read_bytes())
    monkeypatch.setattr(checkpoint, 'get_file_backend', lambda *args, **kwargs: client)
    model = SimpleNamespace(
        name='evil.pth', download=lambda path: shutil.copy(folder / 'evil.pth', path)
    )
    monkeypatch.setitem(
        sys.modules, 'pavi', SimpleNamespace(modelcloud=SimpleNamespace(get=lambda path: model))
    )
    return url if prefix == 'https://' else f'{prefix}evil'


def _init_cfg(path, **options):
    from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LeNet5

    ImageClassifier(
        LeNet5(),
        GlobalAveragePooling(),
        init_cfg=dict(type='Pretrained', checkpoint=path, **options),
    ).init_weights()


def _get_model(path):
    from mmpretrain import get_model

    get_model(
        Config(dict(model=dict(type='ImageClassifier', head=None, backbone=dict(type='LeNet5')))),
        pretrained=path,
    )


def _inferencer(path):
    from mmpretrain import ImageClassificationInferencer

    ImageClassificationInferencer(
        Config(dict(model=dict(type='ImageClassifier', head=None, backbone=dict(type='LeNet5')))),
        pretrained=path,
    )


def _runner(path):
    runner = SimpleNamespace(model=torch.nn.Linear(1, 1), call_hook=lambda *args, **kwargs: None)
    Runner.load_checkpoint(runner, path)


def _timm(path):
    pytest.importorskip('timm')
    from mmpretrain.registry import MODELS

    MODELS.build(
        dict(
            type='TIMMBackbone',
            model_name='vit_tiny_patch16_224',
            checkpoint_path=path,
            img_size=16,
            patch_size=8,
            embed_dim=8,
            depth=1,
            num_heads=1,
        )
    )


WAYS = dict(
    loader=CheckpointLoader.load_checkpoint,
    load_checkpoint=lambda path: load_checkpoint(torch.nn.Linear(1, 1), path),
    stock_function=lambda path: sys.modules['mmengine.runner.checkpoint'].load_from_local(
        path, 'cpu'
    ),
    init_cfg=_init_cfg,
    init_cfg_prefix=partial(_init_cfg, prefix='backbone.'),
    get_model=_get_model,
    inferencer=_inferencer,
    runner=_runner,
    timm=_timm,
)


@pytest.mark.parametrize('save', [torch.save, _legacy, _tar, _bare])
@pytest.mark.parametrize('way', WAYS)
def test_no_way_in_runs_code(tmp_path, save, way):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'ran'
    save({'state_dict': {}, 'x': _Runs(os.mkdir, str(trace))}, path)
    with pytest.raises(Exception) as caught:
        WAYS[way](str(path))
    assert not trace.exists()
    if way != 'timm':
        assert isinstance(caught.value, UserError)
        assert f'checkpoint {path} ' in str(caught.value)
        assert 'mkdir' in str(caught.value) or save in (_tar, _bare)
        assert '\n' not in str(caught.value) and 'weights_only' not in str(caught.value)


@pytest.mark.parametrize('save', [torch.save, _legacy, _tar])
@pytest.mark.parametrize(
    'prefix',
    [
        'https://',
        'torchvision://',
        'modelzoo://',
        'mmcls://',
        'open-mmlab://',
        'openmmlab://',
        'pavi://',
        's3://',
        'local',
    ],
)
def test_no_address_runs_code(tmp_path, monkeypatch, save, prefix):
    trace = tmp_path / 'ran'
    save({'state_dict': {}, 'x': _Runs(os.mkdir, str(trace))}, tmp_path / 'evil.pth')
    address = _by_address(prefix, tmp_path, monkeypatch)
    if prefix == 'local':
        address = 'openmmlab://local'
    with pytest.raises(Exception):  # noqa: B017  each way in has an error of its own
        CheckpointLoader.load_checkpoint(address)
    assert not trace.exists()
    # A harmless file gets through, so that it was this one that was refused.
    for folder in tmp_path, tmp_path / 'checkpoints':
        torch.save({'state_dict': {'backbone.weight': torch.ones(1)}}, folder / 'evil.pth')
    assert 'state_dict' in CheckpointLoader.load_checkpoint(address)


def test_no_address_repeats_the_advice_to_load_unsafely(tmp_path, monkeypatch):
    torch.save({'x': _Runs(os.mkdir, str(tmp_path / 'ran'))}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='evil.pth refused: it holds .*mkdir, which could'):
        CheckpointLoader.load_checkpoint(_by_address('https://', tmp_path, monkeypatch))


def test_what_a_user_reads_with_torch_is_the_users_affair(tmp_path):
    path, trace = tmp_path / 'mine.pth', tmp_path / 'ran'
    torch.save({'x': _Runs(os.mkdir, str(trace))}, path)
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()


def test_other_loaders_are_forced_while_they_load(tmp_path):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'ran'
    torch.save({'x': _Runs(os.mkdir, str(trace))}, path)

    class Strategy:
        def resume(self):
            return torch.load(path, weights_only=False)

    for _ in range(2):
        safe_loading.force_weights_only(Strategy, 'resume')
    with pytest.raises(pickle.UnpicklingError):
        Strategy().resume()
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ and not trace.exists()


def test_timm_is_forced_whatever_its_version(tmp_path, monkeypatch):
    helpers = pytest.importorskip('timm.models._helpers')
    path, trace = tmp_path / 'evil.pth', tmp_path / 'ran'
    torch.save({'x': _Runs(os.mkdir, str(trace))}, path)
    monkeypatch.setattr(
        helpers,
        'load_state_dict',
        lambda path, *args, **kwargs: torch.load(path, weights_only=False),
    )
    with pytest.raises(pickle.UnpicklingError):
        _timm(str(path))
    assert not trace.exists()


def test_a_trusted_file_can_still_be_loaded(tmp_path, monkeypatch):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'ran'
    torch.save({'x': _Runs(os.mkdir, str(trace))}, path)
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    for address in str(path), _by_address('https://', tmp_path, monkeypatch):
        CheckpointLoader.load_checkpoint(address)
        trace.rmdir()


def test_arguments_of_other_codes_are_plain_values(tmp_path):
    path = str(tmp_path / 'mae.pth')
    torch.save({'model': {}, 'args': argparse.Namespace(lr=0.1)}, path)
    assert CheckpointLoader.load_checkpoint(path)['args'].lr == 0.1


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
    assert [a.tolist() for a in loaded['rng']] == [a.tolist() for a in _resumable()['rng']]
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


@pytest.mark.parametrize(
    'owner, name',
    [
        (HistoryBuffer, '__init__'),
        (HistoryBuffer, 'register_statistics'),
        (np.ndarray, 'tofile'),
    ],
)
def test_getattr_yields_statistics_methods_only(tmp_path, owner, name):
    path = str(tmp_path / 'evil.pth')
    torch.save({'x': _Runs(getattr, owner, name)}, path)
    with pytest.raises(UserError, match='refused: it holds builtins.getattr'):
        CheckpointLoader.load_checkpoint(path)


def _truncated():
    stored = io.BytesIO()
    torch.save(_resumable(), stored)
    return stored.getvalue()[:-400]


@pytest.mark.parametrize(
    'content',
    [_truncated(), _truncated()[:1000], b'', b'\x00' * 300, b'not a checkpoint\n', b'\x80\x02.'],
    ids=['tail', 'head', 'empty', 'zeros', 'text', 'pickle'],
)
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
def test_tensors_stay_on_the_disk_where_the_format_allows(tmp_path, monkeypatch, zipped):
    path = str(tmp_path / 'epoch_1.pth')
    torch.save(_resumable(), path, _use_new_zipfile_serialization=zipped)
    asked, load = [], torch.load
    monkeypatch.setattr(
        torch, 'load', lambda *args, **kwargs: asked.append(kwargs) or load(*args, **kwargs)
    )
    loaded = checkpoint_file.read(path, 'cpu', mmap=True)
    assert asked[0]['mmap'] is zipped
    assert torch.equal(loaded['state_dict']['weight'], torch.ones(2))


def test_a_path_that_is_not_utf8_is_read(tmp_path, monkeypatch):
    path = str(tmp_path / 'arbéit.pth')
    torch.save(_resumable(), path)
    # As under a latin-1 locale; torch would look for the name in UTF-8.
    monkeypatch.setattr(os, 'fsencode', lambda name: name.encode('latin-1'))
    asked, load = [], torch.load
    monkeypatch.setattr(
        torch, 'load', lambda *args, **kwargs: asked.append(kwargs) or load(*args, **kwargs)
    )
    checkpoint_file.read(path, 'cpu', mmap=True)
    assert asked[0]['mmap'] is False


@pytest.mark.parametrize('encoding', ['utf-8', 'iso8859-1', 'cp1252'])
def test_last_checkpoint_is_in_the_encoding_that_mmengine_reads(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(locale, 'getpreferredencoding', lambda *args: encoding)
    # What Python makes of a byte that is no text is kept, too.
    names = ['/é/epoch_1.pth']
    if encoding == 'utf-8':
        names.append('/\udcff/epoch_1.pth')
    for name in names:
        write_last_saved(name, str(tmp_path))
        assert last_saved(str(tmp_path)) == name
    write_last_saved('/é', str(tmp_path))
    assert (tmp_path / 'last_checkpoint').read_text(encoding) == '/é'
