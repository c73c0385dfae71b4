import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

import poslabel_mm
from poslabel_mm import UserError, cli
from poslabel_mm.stack import config_prefix

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def _inherit(folder, base):
    path = folder / 'mine.py'
    path.write_text(f'_base_ = {base}\n')
    return Config.fromfile(str(path))


@pytest.mark.parametrize('name', ['vit-b_apl_in1k.py', 'vit-b_apl_in1k', '_base_/runtime.py'])
def test_inherits_by_name_what_a_path_would_give(tmp_path, name):
    stored = CONFIGS / (name if name.endswith('.py') else f'{name}.py')
    config = _inherit(tmp_path, repr(f'poslabel_mm::{name}'))
    assert config.to_dict() == Config.fromfile(str(stored)).to_dict()
    assert config.to_dict()


def test_reusing_a_value_of_a_base_stamps_no_scope(tmp_path):
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'poslabel_mm::_base_/digits.py'\nmy_dataset = _base_.train_dataloader.dataset\n"
    )
    config = Config.fromfile(str(tmp_path / 'mine.py'))
    assert config.my_dataset.type == 'poslabel_mm.Digits'
    assert '_scope_' not in config.my_dataset


def test_mmpretrains_own_prefix_still_works(tmp_path):
    config = _inherit(tmp_path, "['mmpretrain::_base_/default_runtime.py']")
    assert config.default_scope == 'mmpretrain'


STAMPED = """
_base_ = 'mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-400e_in1k.py'
nested = [dict(inner=(dict(_scope_='mmpretrain'), ), other=dict(_scope_='mmdet'))]
train_dataloader = dict(worker_init_fn=dict(type='worker_init_fn', _scope_='mmdet'))
"""


def _stamps(value):
    if isinstance(value, dict):
        yield from [value['_scope_']] if '_scope_' in value else []
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for inner in value:
        yield from _stamps(inner)


def test_the_stamps_of_the_own_scope_are_taken_back(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(STAMPED)
    stock = Config.fromfile(str(path))
    assert stock.train_dataloader.collate_fn._scope_ == 'mmpretrain'
    with config_prefix.without_own_scope():
        config = Config.fromfile(str(path))
    assert list(_stamps(config.to_dict())) == ['mmdet'] and config.nested[0].other
    assert config.train_dataloader.worker_init_fn == dict(type='worker_init_fn')
    # Without a scope of its own the config needs them, and outside it keeps them.
    path.write_text(STAMPED + 'default_scope = None\n')
    with config_prefix.without_own_scope():
        config = Config.fromfile(str(path))
    assert 'mmpretrain' in _stamps(config.model.to_dict())
    assert '_scope_' not in config.train_dataloader.collate_fn
    assert list(_stamps(Config.fromfile(str(path)).to_dict())).count('mmpretrain') > 5


def test_relative_bases_still_work(tmp_path):
    (tmp_path / 'base.py').write_text('value = 3\n')
    assert _inherit(tmp_path, "'./base.py'").value == 3


def test_unknown_name_lists_close_ones(tmp_path):
    with pytest.raises(UserError) as caught:
        _inherit(tmp_path, "'poslabel_mm::vit-b_alp_in1k.py'")
    assert "no config 'vit-b_alp_in1k.py'" in str(caught.value)
    assert 'vit-b_apl_in1k.py' in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['', 'zzzz', '../setup.py', '/etc/passwd'])
def test_names_outside_the_configs_are_unknown(name):
    with pytest.raises(UserError, match='no config'):
        poslabel_mm.config_path(name)


def test_installing_twice_wraps_once():
    wrapped = Config._get_cfg_path
    config_prefix.install()
    assert Config._get_cfg_path is wrapped


def test_launchers_that_never_import_the_package(tmp_path):
    (tmp_path / 'mine.py').write_text(
        "_base_ = __import__('poslabel_mm').config_path('vit-b_apl_in1k')\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            "from mmengine.config import Config\nprint(Config.fromfile('mine.py').model.type)",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(CONFIGS.parent)},
    )
    assert done.stdout.strip() == 'poslabel_mm.PositionalLabelClassifier', done.stderr


def test_a_base_of_a_package_that_is_not_installed(tmp_path):
    with pytest.raises(UserError, match='^the base mmrazor::.* pip install mmrazor$'):
        _inherit(tmp_path, repr('mmrazor::_base_/default_runtime.py'))
    for package, name, config in [
        ('mmseg', 'onedl-mmsegmentation', 'segmentation/vit-b_fcn_ade20k.py'),
        ('mmdet', 'onedl-mmdetection', 'detection/vit-b_retinanet_coco.py'),
    ]:
        if importlib.util.find_spec(package) is None:
            with pytest.raises(UserError, match=f'config of {package}, .* pip install {name}$'):
                _inherit(tmp_path, repr(f'poslabel_mm::{config}'))


@pytest.mark.parametrize(
    'package, name',
    [
        ('mmseg', 'onedl-mmsegmentation'),
        ('mmdet', 'onedl-mmdetection'),
        ('mmselfsup', '(mmcls|mmselfsup)'),
    ],
)
def test_a_module_for_a_package_that_is_not_installed(package, name):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f'{package} is installed')
    with pytest.raises(
        UserError, match=rf'^poslabel_mm.{package} needs \w+, .* pip install {name}$'
    ):
        importlib.import_module(f'poslabel_mm.{package}')


@pytest.mark.parametrize('name', ['mmcv._ext', 'mmengine'])
def test_a_package_that_is_there_is_not_said_to_be_missing(name):
    """MMCV without its operators, for one: installing another one would not help."""
    error = ModuleNotFoundError(f'No module named {name!r}', name=name)
    assert config_prefix.missing_package('poslabel_mm.mmdet', error) is error


@pytest.mark.parametrize('command', ['train', 'test'])
def test_a_command_names_the_missing_package(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    monkeypatch.delitem(sys.modules, 'poslabel_mm.mmseg', raising=False)
    config = 'segmentation/vit-micro_fcn_fashion-scenes.py'
    try:
        status = cli.main([command, config, *['a.pth'] * (command == 'test')])
    except SystemExit as left:
        status = left.code
    reason = 'poslabel_mm.mmseg needs mmseg, which is not installed: '
    line = f'error: {reason}pip install onedl-mmsegmentation'
    assert status == 1 and capsys.readouterr().err.splitlines()[-1] == line
    # Who asks for that goes on without it.
    text = "custom_imports = dict(imports=['poslabel_mm.mmseg'], allow_failed_imports=True)"
    with pytest.warns(UserWarning, match='poslabel_mm.mmseg failed to import and is ignored'):
        assert Config.fromstring(text, '.py').custom_imports.allow_failed_imports


def test_parts_of_configs_are_not_listed():
    names = config_prefix.list_configs()
    assert 'segmentation/vit-b_fcn_ade20k.py' in names
    assert not [name for name in names if '_base_' in name]
