"""The quickstart: interrupted, resumed and done; its table, picture, folders and schedule."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from in_process import InProcess

from poslabel_mm import UserError, config_path
from poslabel_mm.engine.folder_lock import is_locked
from poslabel_mm.experiments import figures, folder_check, logs, quickstart, quickstart_run, work
from poslabel_mm.experiments.folder_check import clear_folders
from poslabel_mm.experiments.manifest import load_paper
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.scale import Scale
from poslabel_mm.experiments.settings import configured

ROOT = Path(__file__).resolve().parents[1]
# A few images of every digit.
SMALL = ('train_dataloader.dataset.indices=64', 'test_dataloader.dataset.indices=64')
RUN = '2epochs/vit-tiny_apl_digits/seed0'


def start(folder):
    """The command as a user gives it, from a folder that is not the repo."""
    env = {**os.environ, 'POSLABEL_MM_COMMAND': 'bash quickstart.sh --seeds 0'}
    env.pop('PYTHONPATH', None)
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / 'tools' / 'quickstart.py'),
            '--seeds',
            '0',
            '--epochs',
            '2',
            '--jobs',
            '1',
            '--work-dir',
            'out',
        ],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_it_resumes_after_an_interrupt_in_mid_training(tmp_path):
    process = start(tmp_path)
    run = tmp_path / 'out' / RUN
    while not (run / 'epoch_1.pth').exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == (
        'stopped; what is done is kept. To resume: bash quickstart.sh --seeds 0'
    )
    assert not (run / 'metrics.json').exists()
    before = (run / 'epoch_1.pth').stat().st_mtime_ns

    out, err = start(tmp_path).communicate()
    assert 'error' not in err
    assert '2 of 3 runs to be done' in out
    assert '[1/2] vit-tiny_apl_digits, seed 0: training, resumed after epoch 1' in out
    # It resumed: the first epoch was not trained again.
    assert (run / 'epoch_1.pth').stat().st_mtime_ns == before
    assert 'positions.png' in out


class StoppedAfter(InProcess):
    """Is told to stop when so many tools have run."""

    def __init__(self, monkeypatch, number):
        super().__init__(monkeypatch)
        self.number = number

    def run(self, *arguments):
        status = super().run(*arguments)
        if len(self.tools) == self.number:
            self.received = signal.SIGINT
        return status


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Call the command in a folder of its own; its tools run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_COMMAND', 'bash quickstart.sh --seeds 0')
    options = quickstart_run.schedule_options
    monkeypatch.setattr(quickstart_run, 'schedule_options', lambda epochs: options(epochs) + SMALL)

    def call(*argv, stopped_after=None):
        process = StoppedAfter(monkeypatch, stopped_after)
        monkeypatch.setattr(work, 'ChildProcesses', process)
        status = quickstart.main(['--seeds', '0', '--epochs', '2', '--work-dir', 'out', *argv])
        return status, process.tools

    return call


def test_it_resumes_and_ends_with_table_picture_and_results(call, tmp_path, capfd):
    devices = os.environ.get('CUDA_VISIBLE_DEVICES')
    assert call('--jobs', '1', stopped_after=1) == (130, ['train.py'])
    out, err = capfd.readouterr()
    assert '3 of 3 runs to be done, in out/2epochs' in out
    assert err.splitlines()[-1] == (
        'stopped; what is done is kept. To resume: bash quickstart.sh --seeds 0'
    )
    assert call('--jobs', '1') == (0, ['test.py', *['train.py', 'test.py'] * 2])
    out = capfd.readouterr().out
    assert '3 of 3 runs to be done' in out
    run = tmp_path / 'out' / RUN
    assert (run / 'epoch_1.pth').exists()  # pictured
    top1 = json.loads((run / 'metrics.json').read_text())['accuracy/top1']
    for cell in 'no labels', 'absolute labels', 'relative labels', f'{top1:.2f}':
        assert cell in out
    assert '| positions right, % | seconds |' in out and '## Table 1: ' in out
    assert os.environ.get('CUDA_VISIBLE_DEVICES') == devices
    results = (tmp_path / 'out' / '2epochs' / 'results.md').read_text()
    assert f'| {top1:.2f} |' in results and 'train_cfg.max_epochs=2' in results
    picture = tmp_path / 'out' / '2epochs' / 'positions.png'
    assert np.ptp(matplotlib.image.imread(picture)) == 1
    # What it says to type next can be typed.
    files, commands = out.split('Next:')
    assert all((tmp_path / line.split()[-1]).exists() for line in files.splitlines()[-3:-1])
    words = [shlex.split(line) for line in commands.splitlines() if line.startswith('    ')]
    assert all(shutil.which(command[0], path=f'{os.environ["PATH"]}:.') for command in words)
    test, train, paper = (command[-3:] for command in words)
    assert config_path(test[1]) == config_path(train[0]) and (tmp_path / test[2]).is_file()
    assert load_paper().table(1).row('pe-apl').config == 'vit-b_apl_in1k.py'
    assert paper == ['1/pe-apl', '--gpus', '8']


@pytest.mark.parametrize('is_installed', [True, False])
def test_the_next_commands_are_those_of_the_installation(monkeypatch, is_installed):
    monkeypatch.chdir(ROOT)
    name = 'poslabel' if is_installed else None
    monkeypatch.setattr(quickstart_run, 'poslabel_as_typed', lambda: name)
    monkeypatch.setattr(quickstart_run, 'python_as_typed', lambda: 'python')
    expected = 'poslabel train' if is_installed else 'python tools/train.py'
    assert quickstart_run._command('train') == expected


@pytest.mark.parametrize('row', load_paper('digits').table(1).rows, ids=lambda row: row.id)
def test_other_epochs_keep_the_shape_of_the_schedule(row):
    cfg = configured(row.config, Scale(), list(quickstart_run.schedule_options(20)))
    warmup, decay = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == 20
    assert (warmup.end, decay.begin, decay.T_max) == (2, 2, 18)


def test_folders_are_cleared_of_ones_own_files_alone(tmp_path):
    run = Run('vit-tiny_digits.py', 0, (), tmp_path)
    run.claim().close()
    run.checkpoint.touch()
    (run.folder / 'test').mkdir()
    with run.claim(), pytest.raises(UserError, match='is at work in'):
        clear_folders([run])
    other = Run('vit-tiny_digits.py', 1, (), tmp_path)
    other.folder.mkdir(parents=True)
    (other.folder / 'thesis.tex').write_text('years of work')
    with pytest.raises(UserError, match='another origin'):
        clear_folders([run, other])
    assert run.checkpoint.exists() and (other.folder / 'thesis.tex').exists()
    for _ in range(2):  # also when it was stopped before the run began anew
        clear_folders([run])
        assert os.listdir(run.folder) == ['lock']
    run.claim().close()


def test_folders_are_cleared_while_they_are_locked(tmp_path, monkeypatch):
    run = Run('vit-tiny_digits.py', 0, (), tmp_path)
    run.claim().close()
    (run.folder / 'test').mkdir()
    seen = []
    monkeypatch.setattr(
        folder_check.shutil, 'rmtree', lambda path: seen.append(is_locked(path.parent))
    )
    clear_folders([run])
    assert seen == [True] and not is_locked(run.folder)


def test_to_force_is_to_clear_what_can_be_trained_again(call, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart_run, 'run_all', lambda *arguments, **more: 0)
    run = Run('vit-tiny_digits.py', 0, (), tmp_path / 'out' / '2epochs')
    run.claim().close()
    run.checkpoint.touch()

    def no_data(runs):
        raise UserError('no data')

    with monkeypatch.context() as patched, pytest.raises(UserError, match='no data'):
        patched.setattr(quickstart_run, 'check_data_of', no_data)
        call('--force')
    assert call() == (0, []) and run.checkpoint.exists()
    assert call('--force') == (0, []) and not run.checkpoint.exists()


def write_log(run, session, entries):
    log = run.folder / session / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(map(json.dumps, entries)) + '\n{"epoch": 3, "lo')


def test_the_log_of_a_resumed_run_counts_every_iteration_once(tmp_path):
    run = Run('vit-tiny_apl_digits.py', 0, (), tmp_path)
    assert logs.last_entry(run.folder) == {}
    for session, lines in {
        '1': [(1, 10, 4.0), (2, 20, 9.0)],
        '2': [(2, 20, 2.0), (3, 30, 1.0)],
    }.items():
        write_log(
            run,
            session,
            [
                dict(epoch=epoch, iter=i, time=0.5, loss=99.0, loss_cls=loss, apl_acc=10 * loss)
                for epoch, i, loss in lines
            ],
        )
    assert figures.epoch_means(run, 'loss_cls') == {1: 4.0, 2: 2.0, 3: 1.0}
    assert figures.epoch_means(run, 'apl_acc') == {1: 40.0, 2: 20.0, 3: 10.0}
    assert logs.training_seconds(run.folder) == 15.0
    assert logs.last_entry(run.folder)['iter'] == 30
