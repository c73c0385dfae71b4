"""Two CPU processes with batch b are one process with batch 2b."""

import json
import os
import os.path as osp
import re
import subprocess
import sys
from glob import glob

import pytest
import torch
from forked import train_as_ranks
from selfsup_models import HEADS, LABELS
from stack_check import fork_tool
from tiny_run import make_config, make_images, train, weights, write_config

from poslabel_mm.errors import UserError
from poslabel_mm.launch.guard import Guard

ROOT = osp.dirname(osp.dirname(osp.realpath(__file__)))
LAUNCHER = osp.join(ROOT, 'tools', 'dist_train.sh')


def _run(*command, **env):
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, 'PYTHON': sys.executable, **env},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
def test_two_processes_equal_one_with_twice_the_batch(tmp_path, monkeypatch):
    data = make_images(tmp_path / 'the images')
    # 12 images are 3 batches of 4, or of 2 times 2. No Adam: it divides the
    # rounding errors of a gradient that is 0 (of the keys' bias) by their size.
    # All pairs: ranks draw different ones, as the next test shows.
    options = {
        'optim_wrapper.optimizer': dict(type='SGD', lr=0.1, momentum=0.9),
        'model.pos_head': [HEADS[kind]() for kind in HEADS if LABELS[kind] == kind],
    }
    one = make_config(tmp_path, data, 'one', **options)
    losses = train(one)
    two = make_config(
        tmp_path, data, 'two', **options, **{'train_dataloader.batch_size': 2, 'log_level': 'INFO'}
    )
    # A loss that is logged is that of rank 0: average over both to compare.
    two.custom_hooks.append(dict(type='MeanLossHook', path=str(tmp_path / 'losses.json')))
    two.custom_imports = dict(imports=['mean_loss_hook'])
    (tmp_path / 'mean_loss_hook.py').write_text(MEAN_LOSS_HOOK)
    config = tmp_path / 'two processes.py'
    two.dump(config)
    monkeypatch.syspath_prepend(tmp_path)
    assert train_as_ranks(config) == [0, 0]
    averaged = json.loads((tmp_path / 'losses.json').read_text())
    assert averaged == pytest.approx(losses, abs=1e-5)
    expected = weights(tmp_path / 'one' / 'epoch_3.pth')
    actual = weights(tmp_path / 'two' / 'epoch_3.pth')
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-5)
    (log,) = glob(str(tmp_path / 'two' / '*' / '*.log'))
    assert 'GPU number: 2' in open(log).read()


@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
def test_processes_draw_different_pairs_and_the_same_ones_again(tmp_path, monkeypatch):
    data = make_images(tmp_path / 'images')
    (tmp_path / 'draws_hook.py').write_text(DRAWS_HOOK)
    draws, trained = [], []
    for name in 'first', 'again':
        cfg = make_config(tmp_path, data, name, **{'train_cfg.max_epochs': 2})
        path = tmp_path / f'{name}.json'
        # The hook that seeds epochs would seed the ranks apart as well.
        cfg.custom_hooks = [h for h in cfg.custom_hooks if 'EpochSeed' not in h.type]
        cfg.custom_hooks.append(dict(type='DrawsHook', path=str(path)))
        cfg.custom_imports = dict(imports=['draws_hook'])
        cfg.dump(tmp_path / f'{name}.py')
    monkeypatch.syspath_prepend(tmp_path)
    for name in 'first', 'again':
        assert train_as_ranks(tmp_path / f'{name}.py') == [0, 0]
    for name in 'first', 'again':
        draws.append(json.loads((tmp_path / f'{name}.json').read_text()))
        trained.append(weights(tmp_path / name / 'epoch_2.pth'))
    rank_0, rank_1 = draws[0]
    seen = [str(draw) for draw in rank_0 + rank_1]
    assert len(set(seen)) == len(seen) == 2 * 2 * 2  # ranks x epochs x steps
    assert draws[1] == draws[0]
    assert all(torch.equal(trained[1][k], v) for k, v in trained[0].items())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
def test_sharded_training_is_that_of_one_model(tmp_path):
    # Wraps position heads, of the relative one the classifier by itself and of the offset head the
    # two linears that its loss multiplies.
    pos_head = [
        HEADS['apl'](),
        HEADS['rpl'](),
        HEADS['coord'](),
        HEADS['offset'](hidden_channels=16),
    ]
    policy = dict(
        type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=150
    )
    fsdp = dict(type='FSDPStrategy', model_wrapper=dict(auto_wrap_policy=policy))
    full = dict(fsdp, state_dict_cfg='full')
    runs = [
        ('ddp', dict(type='DDPStrategy'), 3),
        ('full', full, 2),
        ('full', full, 3),
        ('local', fsdp, 2),
        ('local', fsdp, 3),
    ]
    data = make_images(tmp_path / 'images')
    commands = []
    for name, strategy, epochs in runs:
        cfg = make_config(
            tmp_path,
            data,
            name,
            **{'model.pos_head': pos_head, 'train_cfg.max_epochs': epochs},
        )
        cfg.runner_type, cfg.strategy, cfg.log_level = 'FlexibleRunner', strategy, 'INFO'
        commands.append(str(tmp_path / f'{name} {epochs}.py'))
        cfg.dump(commands[-1])
        if epochs == 3 and name != 'ddp':
            commands.append('--resume')
    run = _run(sys.executable, '-c', FORKS, *commands, PYTHONPATH=ROOT)
    assert run.returncode == 0, run.stderr
    expected = {
        name.removeprefix('module.'): value  # as DDPStrategy saves them
        for name, value in weights(tmp_path / 'ddp' / 'epoch_3.pth').items()
    }
    actual = weights(tmp_path / 'full' / 'epoch_3.pth')
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-4)
    losses = [
        [
            re.search(r'Epoch\(train\) +\[3\].* loss: .*', line)[0].split('  loss: ')[1]
            for line in open(sorted(glob(str(tmp_path / name / '*' / '*.log')))[-1])
            if 'Epoch(train) [3]' in line
        ]
        for name in ('ddp', 'full', 'local')
    ]
    assert losses[0] and losses[0] == losses[1] == losses[2]
    assert {path.name for path in (tmp_path / 'local' / 'epoch_3.pth').iterdir()} == {
        'rank0.pth',
        'rank1.pth',
    }


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
def test_warning_of_slurm_is_passed_on_and_the_run_saved(tmp_path):
    cfg = make_config(tmp_path, make_images(tmp_path / 'images'), 'run')
    cfg.custom_hooks.append(dict(type='WarningHook', priority='VERY_HIGH'))
    cfg.custom_imports = dict(imports=['warning_hook'])
    (tmp_path / 'warning_hook.py').write_text(WARNING_HOOK)
    cfg.dump(tmp_path / 'config.py')
    run = _run(LAUNCHER, tmp_path / 'config.py', 2, PYTHONPATH=str(tmp_path))
    assert run.returncode == 138, run.stderr
    (said,) = (line for line in run.stderr.splitlines() if line.startswith('stopped by SIGUSR1: '))
    assert 'saved at iteration 1 of epoch 2 in ' in said
    assert (tmp_path / 'run' / 'epoch_2_iter_1.pth').is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
def test_mistake_of_all_processes_is_told_once(tmp_path):
    config = write_config(tmp_path, make_images(tmp_path / 'images'))
    options = '--work-dir', 'run', '--cfg-options', 'model.pos_head.0.grid_size=7'
    words = 2, osp.join(ROOT, 'tools', 'train.py'), config, '--launcher', 'pytorch', *options
    run = fork_tool('torchrun.py', *words, folder=tmp_path)  # as the LAUNCHER calls it
    assert run.returncode == 1
    said = [line for line in run.stderr.splitlines() if line.startswith('error')]
    assert len(said) == 1 and 'grid_size=(7, 7)' in said[0], run.stderr
    assert 'Traceback' not in run.stderr


@pytest.mark.parametrize('rank, told', [(0, 1), (1, 0)])
def test_mistake_before_the_processes_have_joined(monkeypatch, capfd, rank, told):
    monkeypatch.setenv('LOCAL_RANK', str(rank))
    _fail()
    assert len(capfd.readouterr().err.splitlines()) == told


def test_first_of_the_joined_processes_tells(monkeypatch, capfd):
    monkeypatch.setenv('LOCAL_RANK', '1')
    torch.distributed.init_process_group(
        'gloo', store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        _fail()
        assert capfd.readouterr().err == 'error: a mistake\n'
        _fail()
        assert not capfd.readouterr().err
    finally:
        torch.distributed.destroy_process_group()


def _fail():
    with pytest.raises(SystemExit) as left, Guard():
        raise UserError('a mistake')
    assert left.value.code == 1


MEAN_LOSS_HOOK = """
import json
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class MeanLossHook(Hook):
    def __init__(self, path):
        self.path, self.losses = path, []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        loss = outputs['loss'].clone()
        all_reduce(loss, op='mean')
        self.losses.append(loss.item())

    def after_train(self, runner):
        if runner.rank == 0:
            json.dump(self.losses, open(self.path, 'w'))
"""

FORKS = """
import multiprocessing, os, socket, sys
from poslabel_mm.launch import tools as launch
import mmpretrain.models

def train(rank, config, options, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', LOCAL_WORLD_SIZE='2',
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    sys.argv = ['train.py', config, '--launcher', 'pytorch', *options]
    launch.train()

for i, config in enumerate(sys.argv):
    if not config.endswith('.py'):
        continue
    options = [option for option in sys.argv[i + 1:i + 2] if option == '--resume']
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    processes = [multiprocessing.get_context('fork').Process(
        target=train, args=(rank, config, options, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
"""

WARNING_HOOK = """
import os, signal, time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from poslabel_mm.engine.hooks import stop_signal_hook

@HOOKS.register_module()
class WarningHook(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        # 2 iterations of 4 images in each of 2 processes
        if runner.iter == 2 and runner.rank == 0:
            os.kill(os.getppid(), signal.SIGUSR1)
            while stop_signal_hook._received.signum is None:
                time.sleep(0.01)
"""

DRAWS_HOOK = """
import json
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class DrawsHook(Hook):
    def __init__(self, path):
        self.path, self.draws = path, []

    def before_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        head = model.pos_head[1]
        draw = head._key_draw

        def drawn(*args):
            keys = draw(*args)
            self.draws.append(keys.tolist())
            return keys

        head._key_draw = drawn

    def after_train(self, runner):
        draws = all_gather_object(self.draws)
        if runner.rank == 0:
            json.dump(draws, open(self.path, 'w'))
"""
