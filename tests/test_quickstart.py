"""The quickstart from the first run to the picture, with an interrupt."""
import importlib.util
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

TOOL = Path(__file__).resolve().parent.parent / 'tools' / 'quickstart.py'
RUN = 'vit-tiny_apl_digits/seed0_2epochs'


@pytest.fixture
def quickstart(monkeypatch):
    for name in 'CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS':
        monkeypatch.setenv(name, os.environ.get(name, ''))  # put back after
    monkeypatch.syspath_prepend(str(TOOL.parent))
    spec = importlib.util.spec_from_file_location('quickstart', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(folder):
    """The command as a user gives it, from a folder that is not the repo."""
    env = {**os.environ, 'POSLABEL_MM_COMMAND': 'bash quickstart.sh --seeds 0'}
    env.pop('PYTHONPATH', None)
    return subprocess.Popen(
        [sys.executable, str(TOOL), '--seeds', '0', '--epochs', '2', '--jobs', '1',
         '--work-dir', 'out'],
        cwd=folder, env=env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)


def test_it_goes_on_after_an_interrupt_and_ends_with_table_and_picture(
        tmp_path):
    process = start(tmp_path)
    run = tmp_path / 'out' / RUN
    while not (run / 'epoch_1.pth').exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert err.strip() == ('stopped; what is done is kept. To go on: bash '
                           'quickstart.sh --seeds 0')
    assert not (run / 'result.json').exists()
    # The run before this one is tested while this one trains.
    done = (tmp_path / 'out/vit-tiny_digits/seed0_2epochs/result.json').exists()
    before = (run / 'epoch_1.pth').stat().st_mtime_ns

    out, err = start(tmp_path).communicate()
    assert 'error' not in err
    assert out.count('done before') == done and out.count('training:') == 3 - done
    # It resumed: the first epoch was not trained again.
    assert (run / 'epoch_1.pth').stat().st_mtime_ns == before
    assert 'resumed epoch' in (run / 'train.out').read_text()
    result = json.loads((run / 'result.json').read_text())
    assert 0 < result['top1'] < 100 and 0 < result['positions']['apl_acc']
    for cell in ('no labels', 'absolute labels', 'relative labels', f'{result["top1"]:.2f}'):
        assert cell in out
    picture = tmp_path / 'out' / 'positions.png'
    assert np.ptp(matplotlib.image.imread(picture)) == 1
    # Every file that it says to type next is there.
    words = [word for line in out.split('Next:')[1].splitlines()
             for word in line.split() if '/' in word and "'" not in word]
    files = [word.removeprefix('PYTHON=') for word in words
             if word.endswith(('.py', '.pth', '.sh', 'python'))]
    assert len(files) >= 8
    assert all((tmp_path / name).exists() for name in files)


def test_a_finished_run_is_known_by_its_options(quickstart, tmp_path):
    def run(epochs):
        return quickstart.Run('vit-tiny_digits.py', 0, epochs, tmp_path, False)

    assert run(3).prepare(force=False) is None
    result = dict(top1=50., positions={}, seconds=1., epochs=3)
    quickstart.write_json(run(3).dir / 'result.json', result)
    assert run(3).prepare(force=False) is None  # its checkpoint is gone
    run(3).checkpoint(3).touch()
    assert run(3).prepare(force=False) == result
    assert run(4).prepare(force=False) is None
    assert run(3).prepare(force=False) == result  # of another length: kept
    assert run(3).prepare(force=True) is None
    assert not run(3).checkpoint(3).exists()


def test_files_of_another_origin_are_left_alone(quickstart, tmp_path):
    run = quickstart.Run('vit-tiny_digits.py', 0, 3, tmp_path, False)
    run.dir.mkdir(parents=True)
    (run.dir / 'thesis.tex').write_text('years of work')
    for force in False, True:
        with pytest.raises(UserError, match='another origin'):
            run.prepare(force)
    assert (run.dir / 'thesis.tex').exists()


def test_the_log_of_a_resumed_run_counts_every_step_once(quickstart, tmp_path):
    run = quickstart.Run('vit-tiny_apl_digits.py', 0, 3, tmp_path, False)
    for session, lines in {
            '1': [(1, 10, 4.), (2, 20, 9.)],
            '2': [(2, 20, 2.), (3, 30, 1.)]
    }.items():
        log = run.dir / session / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text('\n'.join(
            json.dumps(dict(epoch=epoch, iter=i, loss=99., loss_cls=loss,
                            apl_acc=10 * loss)) for epoch, i, loss in lines)
                       + '\n{"epoch": 3, "lo')
    assert quickstart.by_epoch(run) == dict(
        loss=[4., 2., 1.], positions=[40., 20., 10.])


def test_a_failed_training_is_one_line(quickstart, tmp_path):
    run = quickstart.Run('vit-tiny_digits.py', 0, 3, tmp_path, False)
    run.prepare(force=False)
    (run.dir / 'train.out').write_text('Traceback\nerror: no space\n\n')
    line = quickstart.failure(run)
    assert 'no labels, seed 0' in line and 'no space (all of it: ' in line
    assert '\n' not in line
