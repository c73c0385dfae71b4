"""The quickstart from the first run to the picture, with an interrupt."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from poslabel_mm import UserError
from poslabel_mm.experiments import logs, quickstart
from poslabel_mm.experiments.manifest import load_paper
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.settings import configured
from poslabel_mm.experiments.tiny import Scale

ROOT = Path(__file__).resolve().parents[1]
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


def test_it_resumes_after_an_interrupt_and_ends_with_table_and_picture(tmp_path):
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
    assert 'done before: vit-tiny_digits, seed 0' in out
    assert '[1/2] vit-tiny_apl_digits, seed 0: training, resumed after epoch 1' in out
    # It resumed: the first epoch was not trained again.
    assert (run / 'epoch_1.pth').stat().st_mtime_ns == before
    top1 = json.loads((run / 'metrics.json').read_text())['accuracy/top1']
    for cell in 'no labels', 'absolute labels', 'relative labels', f'{top1:.2f}':
        assert cell in out
    picture = tmp_path / 'out' / '2epochs' / 'positions.png'
    assert np.ptp(matplotlib.image.imread(picture)) == 1
    # Every file that it says to type next is there.
    words = [
        word
        for line in out.split('Next:')[1].splitlines()
        for word in line.split()
        if '/' in word and "'" not in word
    ]
    files = [
        word.removeprefix('PYTHON=')
        for word in words
        if word.endswith(('.py', '.pth', '.sh', 'python'))
    ]
    assert len(files) >= 8
    assert all((tmp_path / name).exists() for name in files)


@pytest.mark.parametrize('row', load_paper('digits').table(1).rows, ids=lambda row: row.id)
def test_other_epochs_keep_the_shape_of_the_schedule(row):
    cfg = configured(row.config, Scale(), list(quickstart.schedule_options(row.config, 20)))
    warmup, decay = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == 20
    assert (warmup.end, decay.begin, decay.T_max) == (2, 2, 18)


def test_to_repeat_runs_is_to_remove_ones_own(tmp_path):
    run = Run('vit-tiny_digits.py', 0, (), tmp_path)
    run.claim().close()
    run.checkpoint.touch()
    with run.claim(), pytest.raises(UserError, match='another process is at work'):
        quickstart.remove([run])
    other = Run('vit-tiny_digits.py', 1, (), tmp_path)
    other.folder.mkdir(parents=True)
    (other.folder / 'thesis.tex').write_text('years of work')
    with pytest.raises(UserError, match='another origin'):
        quickstart.remove([run, other])
    assert run.checkpoint.exists() and (other.folder / 'thesis.tex').exists()
    quickstart.remove([run])
    assert not run.folder.exists()


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
    assert quickstart.by_epoch(run, 'loss_cls') == {1: 4.0, 2: 2.0, 3: 1.0}
    assert quickstart.by_epoch(run, 'apl_acc') == {1: 40.0, 2: 20.0, 3: 10.0}
    assert logs.training_seconds(run.folder) == 15.0
    assert logs.last_entry(run.folder)['iter'] == 30
