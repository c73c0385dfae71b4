"""The tools: MMPretrain's own options, on any machine, from anywhere."""
import os
import os.path as osp
import shlex
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_run import RANDOM, make_config, make_images, train, weights, \
    write_config

from poslabel_mm import launch
from poslabel_mm.engine import CPUAmpOptimWrapper

ROOT = osp.dirname(osp.dirname(osp.realpath(__file__)))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train')


@pytest.fixture
def built(monkeypatch):
    """Runners that the tool builds; they do not run."""
    runners = []
    monkeypatch.setattr(Runner, 'train', lambda self: runners.append(self))
    monkeypatch.setattr(Runner, 'test', lambda self: runners.append(self))
    return runners


def _call(monkeypatch, tool, *argv):
    monkeypatch.setattr(sys, 'argv', [f'{tool.__name__}.py', *map(str, argv)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
    tool()


def test_train_workers_start_anew_each_epoch(tmp_path, data, monkeypatch,
                                             built):
    config = write_config(tmp_path, data)
    workers = '--cfg-options', 'train_dataloader.num_workers=1'
    asked = 'train_dataloader.persistent_workers=True'
    for extra in (), (asked, ):
        _call(monkeypatch, launch.train, config, '--work-dir', tmp_path / 'run',
              *workers, *extra)
    default, persistent = (run.cfg.train_dataloader for run in built)
    assert default.persistent_workers is False
    assert persistent.persistent_workers is True


def test_amp_without_a_gpu_is_bfloat16(tmp_path, data, monkeypatch, built):
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    _call(monkeypatch, launch.train, write_config(tmp_path, data), '--amp',
          '--work-dir', tmp_path / 'run')
    runner, = built
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert isinstance(wrapper, CPUAmpOptimWrapper)


def test_config_is_found_by_its_name(tmp_path, monkeypatch):
    config = launch._find_config('vit-b_apl_in1k.py')
    assert osp.samefile(config, osp.join(ROOT, 'configs', 'vit-b_apl_in1k.py'))
    # A file of the same name in the working directory comes first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'vit-b_apl_in1k.py').touch()
    assert launch._find_config('vit-b_apl_in1k.py') == 'vit-b_apl_in1k.py'


def test_configs_hold_the_runtime_hooks():
    cfg = Config.fromfile(launch._find_config('vit-b_apl_in1k.py'))
    assert cfg.default_hooks.checkpoint.type.endswith('AtomicCheckpointHook')
    assert [hook.type.split('.')[1] for hook in cfg.custom_hooks
            ] == ['EpochSeedHook', 'NonFiniteLossHook', 'StopSignalHook']
    assert '_scope_' not in cfg.visualizer


@pytest.mark.parametrize(
    'typed, again',
    [
        ('train.py c.py', 'train.py c.py --resume'),
        ('train.py --resume a.pth c.py --amp', 'train.py c.py --amp --resume'),
        ('train.py c.py --resume --amp', 'train.py c.py --amp --resume'),
        ('train.py c.py --resume=a.pth', 'train.py c.py --resume'),
        ("train.py 'my c.py'", "train.py 'my c.py' --resume"),
    ])
def test_resume_command(monkeypatch, typed, again):
    monkeypatch.delenv('POSLABEL_MM_COMMAND', raising=False)
    assert launch._resume_command(shlex.split(typed)) == f'python {again}'
    monkeypatch.setenv('POSLABEL_MM_COMMAND', typed)
    assert launch._resume_command(['other.py']) == again


def test_another_stock_tool_takes_a_config_by_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    launch.other_tool(['misc/print_config.py', 'vit-b_apl_in1k.py'])
    assert 'poslabel_mm.PositionalLabelClassifier' in capsys.readouterr().out


def test_stopped_and_resumed_by_command_is_the_run_that_never_stopped(
        tmp_path, data, monkeypatch):
    """The whole way, from a folder with a space, as a user would type it."""
    folder = tmp_path / 'a folder'
    folder.mkdir()
    cfg = make_config(tmp_path, data, 'whole', **RANDOM)
    train(cfg)
    cfg.custom_hooks.append(dict(type='Stopper', priority='VERY_HIGH'))
    cfg.custom_imports = dict(imports=['stopper'])
    cfg.work_dir = None
    cfg.dump(folder / 'tiny.py')
    (folder / 'stopper.py').write_text(STOPPER)
    env = {
        **os.environ, 'PYTHONPATH': str(folder),
        'OMP_NUM_THREADS': '1'
    }
    env.pop('POSLABEL_MM_RESUME_COMMAND', None)
    stopped = subprocess.run(
        [sys.executable,
         osp.join(ROOT, 'tools', 'train.py'), 'tiny.py'],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True)
    assert stopped.returncode == 143, stopped.stderr
    line, = (text for text in stopped.stderr.splitlines()
             if text.startswith('stopped by SIGTERM'))
    python, script, *argv = shlex.split(line.rpartition('to go on: ')[2])
    assert python == 'python' and script.endswith('train.py')

    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    _call(monkeypatch, launch.train, *argv)
    whole = weights(tmp_path / 'whole' / 'epoch_3.pth')
    resumed = weights(folder / 'work_dirs' / 'tiny' / 'epoch_3.pth')
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


STOPPER = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Stopper(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 4 and not runner._resume:
            os.kill(os.getpid(), signal.SIGTERM)
"""
