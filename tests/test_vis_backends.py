"""Logging to TensorBoard and others beside the local log, by config or ``--cfg-options``."""

import json
import sys

import pytest
from mmengine.runner import Runner
from tiny_run import make_images, write_config

from poslabel_mm import UserError
from poslabel_mm.experiments.checks import problems_of
from poslabel_mm.experiments.run import Run
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch import vis_backends

TENSORBOARD = "vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]\n"
VISUALIZER = 'visualizer = dict(vis_backends=vis_backends)\n'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train')


def call(monkeypatch, tool, *argv):
    monkeypatch.setattr(sys, 'argv', [f'{tool.__name__}.py', *map(str, argv)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
    tool()


@pytest.fixture
def built(monkeypatch):
    """The configs that runs are made from; they do not run, and need no package."""
    cfgs = []

    class Recorded:
        def __init__(self, cfg):
            cfgs.append(cfg)

        def train(self):
            pass

        test = train

    monkeypatch.setattr(Runner, 'from_cfg', Recorded)
    monkeypatch.setattr(vis_backends, 'NEEDED', {})
    return cfgs


def kinds(cfg):
    return [backend['type'] for backend in cfg.visualizer.vis_backends]


@pytest.mark.parametrize(
    'options',
    [
        ['visualizer.vis_backends.1.type=TensorboardVisBackend'],
        ['visualizer.vis_backends.0.type=TensorboardVisBackend'],
        ['visualizer.vis_backends.0.type=mmengine.TensorboardVisBackend'],
    ],
)
def test_a_backend_by_option_keeps_the_local_one(tmp_path, data, monkeypatch, built, options):
    config = write_config(tmp_path, data)
    call(monkeypatch, launch.train, config, '--work-dir', tmp_path / 'run',
         '--cfg-options', *options)  # fmt: skip
    local, other = kinds(built[0])
    assert local == 'LocalVisBackend' and other.endswith('TensorboardVisBackend')


def test_several_backends_with_their_options(tmp_path, data, monkeypatch, built):
    call(
        monkeypatch, launch.train, write_config(tmp_path, data), '--work-dir', tmp_path / 'run',
        '--cfg-options', 'visualizer.vis_backends.2.type=MLflowVisBackend',
        'visualizer.vis_backends.1.type=WandbVisBackend',
        'visualizer.vis_backends.1.init_kwargs.mode=offline',
    )  # fmt: skip
    assert kinds(built[0]) == ['LocalVisBackend', 'WandbVisBackend', 'MLflowVisBackend']
    assert built[0].visualizer.vis_backends[1].init_kwargs == dict(mode='offline')


def test_a_study_takes_the_option_too(tmp_path, monkeypatch):
    key = 'visualizer.vis_backends.1'
    run = Run('vit-tiny_digits.py', 0, (f'{key}.type=TensorboardVisBackend',), tmp_path)
    assert kinds(run.cfg) == ['LocalVisBackend', 'TensorboardVisBackend']
    monkeypatch.setattr(vis_backends, 'NEEDED', {'TensorboardVisBackend': 'no_such_package'})
    assert problems_of([run])[run].startswith('TensorboardVisBackend needs no_such_package, ')
    with pytest.raises(UserError, match='must be a list of backends: add one with'):
        _ = Run('vit-tiny_digits.py', 0, (f'{key}.save_dir=x',), tmp_path).cfg


def test_a_config_decides_for_itself(tmp_path, data, monkeypatch, built):
    text = "visualizer = dict(vis_backends=[dict(type='TensorboardVisBackend')])"
    config = write_config(tmp_path, data, text)
    call(monkeypatch, launch.train, config, '--work-dir', tmp_path / 'run')
    assert kinds(built[0]) == ['TensorboardVisBackend']


@pytest.mark.parametrize(
    'option',
    [
        'visualizer.vis_backends=TensorboardVisBackend',
        'visualizer.vis_backends.1.save_dir=x',
        'visualizer.vis_backends.5.type=TensorboardVisBackend',
    ],
)
def test_options_that_make_no_backend_are_one_line(tmp_path, data, monkeypatch, capsys, option):
    config = write_config(tmp_path, data)
    with pytest.raises(SystemExit) as left:
        call(monkeypatch, launch.train, config, '--work-dir', tmp_path / 'run',
             '--cfg-options', option)  # fmt: skip
    assert left.value.code == 1 and not (tmp_path / 'run').exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and 'vis_backends' in line


@pytest.mark.parametrize('tool', [launch.train, launch.test])
def test_a_backend_that_is_not_installed_is_one_line(tmp_path, data, monkeypatch, capsys, tool):
    monkeypatch.setattr(vis_backends, 'NEEDED', {'TensorboardVisBackend': 'no_such_package'})
    config = write_config(tmp_path, data)
    checkpoint = [tmp_path / 'a.pth'] if tool is launch.test else []
    with pytest.raises(SystemExit) as left:
        call(monkeypatch, tool, config, *checkpoint, '--work-dir', tmp_path / 'run',
             '--cfg-options', 'visualizer.vis_backends.1.type=TensorboardVisBackend')  # fmt: skip
    assert left.value.code == 1 and not (tmp_path / 'run').exists()
    assert capsys.readouterr().err == (
        'error: TensorboardVisBackend needs no_such_package, which is not installed: pip install '
        'no_such_package, or leave it out of visualizer.vis_backends\n'
    )


@pytest.mark.computes
@pytest.mark.parametrize('way', ['config', 'option'])
def test_tensorboard_gets_what_the_local_log_gets(tmp_path, data, monkeypatch, way):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    config = write_config(tmp_path, data, TENSORBOARD + VISUALIZER if way == 'config' else '')
    options = ['--cfg-options', 'visualizer.vis_backends.1.type=TensorboardVisBackend']
    call(monkeypatch, launch.train, config, '--work-dir', tmp_path / 'run',
         *(options if way == 'option' else []))  # fmt: skip
    (folder,) = tmp_path.glob('run/*/vis_data')
    logged = [json.loads(line) for line in (folder / 'scalars.json').read_text().splitlines()]
    assert len(logged) == 9
    events = accumulator.EventAccumulator(str(folder)).Reload()
    for key in 'loss', 'loss_cls', 'loss_apl', 'loss_rpl', 'apl_acc', 'rpl_acc':
        scalars = {event.step: event.value for event in events.Scalars(key)}
        assert scalars == pytest.approx({entry['step']: entry[key] for entry in logged}, rel=1e-6)
