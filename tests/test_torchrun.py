"""The launcher: ports, ranks, and what ends with what."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import train_as_ranks
from test_parent_process import ends
from tiny_run import make_images, write_config

from poslabel_mm import UserError
from poslabel_mm.engine import EqualBatchesHook
from poslabel_mm.engine.cpu import check_launcher
from poslabel_mm.engine.folder_lock import is_locked
from poslabel_mm.engine.hooks import equal_batches_hook
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch import torchrun as launcher
from poslabel_mm.launch.port import choose_port

TOOLS = Path(__file__).resolve().parent.parent / 'tools'
NAMES = ('PORT', 'NNODES', 'NODE_RANK', 'MASTER_ADDR', launcher.PATIENCE)
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')


@pytest.fixture
def torchrun(monkeypatch):
    """The tool, whose launch only keeps what it was told."""
    for name in (*NAMES, 'POSLABEL_MM_PARENT'):
        monkeypatch.setenv(name, '')  # put back after
        monkeypatch.delenv(name)
    monkeypatch.setattr(launcher, 'told', [], raising=False)
    monkeypatch.setattr(launcher.run, 'main', launcher.told.extend)
    return launcher


@pytest.fixture
def taken():
    with socket.create_server(('', 0)) as server:
        yield server.getsockname()[1]


def test_what_is_to_be_started_is_asked_for(torchrun):
    for arguments in [], ['2'], ['two', 'train.py'], ['0', 'train.py']:
        with pytest.raises(UserError, match='usage is torchrun.py PROCESSES SCRIPT'):
            torchrun.main(arguments, 'torchrun.py')
    assert torchrun.told == []


# ----------------------------------------------------------------------- ports


@pytest.mark.parametrize(
    'name, value, named',
    [
        ('PORT', '99999', 'PORT=99999 is no whole number from 1 to 65535'),
        ('PORT', 'abc', 'PORT=abc is no whole number'),
        ('PORT', '0', 'PORT=0 is no whole number from 1'),
        ('PORT', '-1', 'PORT=-1 is no whole number from 1'),
        ('NNODES', 'two', 'NNODES=two is no whole number from 1'),
        ('NODE_RANK', '1', 'NODE_RANK=1 is no whole number from 0 to 0'),
        ('NNODES', '2', 'PORT is not set'),
    ],
)
def test_an_address_that_cannot_be_is_one_line(torchrun, monkeypatch, name, value, named):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=named):
        torchrun.launch(2, ['train.py'])
    assert torchrun.told == []


def test_a_port_that_is_taken_is_named_on_the_machine_that_opens_it(torchrun, monkeypatch, taken):
    monkeypatch.setenv('PORT', str(taken))
    with pytest.raises(UserError, match=f'PORT={taken} cannot be used .Address already in use'):
        torchrun.launch(2, ['train.py'])
    assert torchrun.told == []
    monkeypatch.setenv('NNODES', '2')
    monkeypatch.setenv('NODE_RANK', '1')
    assert torchrun.launch(2, ['train.py']) == 0
    assert f'--master-port={taken}' in torchrun.told


def test_a_port_that_was_used_a_moment_ago_is_free(torchrun, taken):
    with socket.create_server(('', 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(('127.0.0.1', port)) as client:
            connection, _ = server.accept()
            connection.close()  # this end now waits for late packets
            client.recv(1)
    torchrun.check_port(port)


def test_without_a_port_there_is_a_free_one(torchrun, monkeypatch):
    monkeypatch.setenv('PORT', '')
    assert torchrun.launch(3, ['train.py', '--amp']) == 0
    assert torchrun.told[0] == '--nproc-per-node=3' and torchrun.told[-2:] == ['train.py', '--amp']
    port = int(torchrun.told[4].removeprefix('--master-port='))
    assert 1 <= port <= 65535
    assert os.environ['POSLABEL_MM_PARENT'] == str(os.getpid())
    assert os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT'] == '600'


def test_a_meeting_that_fails_is_one_line(torchrun, monkeypatch):
    def fail(_):
        raise torchrun.DistNetworkError('The client has timed out\nand more')

    monkeypatch.setattr(torchrun.run, 'main', fail)
    monkeypatch.setenv('MASTER_ADDR', 'node1')
    with pytest.raises(
        UserError, match='cannot meet at node1, port .*: The client has timed out$'
    ):
        torchrun.launch(2, ['train.py'])


@pytest.mark.parametrize(
    'signum, told',
    [
        (signal.SIGKILL, 'was killed by SIGKILL, the signal of a machine that is out of memory'),
        (signal.SIGABRT, 'was killed by SIGABRT'),
    ],
)
def test_a_signal_has_its_name(torchrun, signum, told):
    assert torchrun.killed(1, signum) == f'the process of rank 1 {told}'


@pytest.mark.parametrize(
    'launcher, settings, named',
    [
        ('pytorch', {}, '--launcher pytorch needs RANK, .* tools/dist_train.sh'),
        ('pytorch', dict(RANK='0', WORLD_SIZE='two'), 'WORLD_SIZE=two is no whole number'),
        (
            'pytorch',
            dict(RANK='0', WORLD_SIZE='2', LOCAL_RANK='0', MASTER_ADDR='a', MASTER_PORT='99999'),
            'MASTER_PORT=99999 is no port',
        ),
        ('slurm', dict(SLURM_PROCID='0'), '--launcher slurm needs SLURM_NTASKS'),
        ('mpi', {}, '--launcher mpi needs OMPI_COMM_WORLD_RANK, .* mpirun'),
    ],
)
def test_a_launcher_that_did_not_start_the_process(monkeypatch, launcher, settings, named):
    for name in [n for n in os.environ if n.startswith(('SLURM_', 'OMPI_', 'MASTER_'))]:
        monkeypatch.delenv(name)
    for name in 'RANK', 'WORLD_SIZE', 'LOCAL_RANK':
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=named):
        check_launcher(launcher)
    check_launcher('none')


@pytest.mark.parametrize(
    'launcher, settings, port',
    [
        ('slurm', dict(SLURM_JOB_ID='7', SLURM_STEP_ID='0'), '15007'),
        ('slurm', dict(SLURM_JOB_ID='8', SLURM_STEP_ID='0'), '15008'),
        ('slurm', dict(SLURM_JOB_ID='7', SLURM_STEP_ID='1'), '16007'),
        ('slurm', dict(SLURM_JOB_ID='15007'), '15007'),
        ('slurm', dict(SLURM_JOB_ID='7', PORT='2000'), '2000'),
        ('slurm', dict(SLURM_JOB_ID='7', PORT='2000', MASTER_PORT='3000'), '3000'),
        ('slurm', {}, None),
        ('mpi', dict(SLURM_JOB_ID='7', SLURM_STEP_ID='0'), None),
    ],
)
def test_jobs_of_slurm_have_ports_of_their_own(monkeypatch, launcher, settings, port):
    for name in 'SLURM_JOB_ID', 'SLURM_STEP_ID', 'PORT', 'MASTER_PORT':
        monkeypatch.setenv(name, '')  # put back after
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    choose_port(launcher)
    assert os.environ.get('MASTER_PORT') == port


@pytest.mark.parametrize('port', ['abc', '0', '99999', '-1'])
def test_a_port_that_is_none_is_named_as_it_was_set(monkeypatch, port):
    monkeypatch.delenv('MASTER_PORT', raising=False)
    monkeypatch.setenv('PORT', port)
    with pytest.raises(UserError, match=f'^PORT={port} is no port'):
        choose_port('slurm')
    assert 'MASTER_PORT' not in os.environ


# ----------------------------------------------------------------------- ranks


class Loop(equal_batches_hook.EpochBasedTrainLoop):
    def __init__(self):
        pass


class Runner:
    train_loop = Loop()
    train_dataloader = [None] * 3


def test_ranks_with_unequal_numbers_of_batches_are_refused(monkeypatch):
    hook = EqualBatchesHook()
    hook.before_train(Runner)  # a single process may have any number
    monkeypatch.setattr(equal_batches_hook, 'get_world_size', lambda: 2)
    for others, refused in ((3, False), (2, True), (0, True)):
        monkeypatch.setattr(
            equal_batches_hook, 'all_gather', lambda own: [own, torch.tensor(others)]
        )
        if refused:
            with pytest.raises(UserError, match=f'have 3, {others} batches .*round_up=True'):
                hook.before_train(Runner)
        else:
            hook.before_train(Runner)


def run(*command, **env):
    env = {**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', **env}
    return subprocess.Popen(
        [str(part) for part in command],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@on_cpu
def test_unequal_ranks_are_one_line_before_training(tmp_path):
    # Of 9 images rank 0 has 5, the last in a batch of its own.
    config = write_config(
        tmp_path,
        make_images(tmp_path / 'images', per_class=5),
        """
train_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=True, round_up=False))
train_dataloader['dataset'].update(indices=9)
""",
    )
    options = '--work-dir', tmp_path / 'run'
    statuses = train_as_ranks(config, *options, stderr=tmp_path / 'err')
    err = (tmp_path / 'err').read_text()
    assert statuses == [1, 1], err
    (line,) = (line for line in err.splitlines() if line.startswith('error: '))
    assert line.startswith('error: the processes have 2, 1 batches an epoch')
    assert 'Traceback' not in err
    assert not list(tmp_path.glob('run/*.pth')) and not is_locked(tmp_path / 'run')


SLOW = """
import os, pathlib, time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Slow(Hook):
    def before_train_iter(self, runner, *args, **kwargs):
        pathlib.Path(os.environ['PIDS'], str(os.getpid())).touch()
        time.sleep(0.1)
"""


@pytest.mark.slow
@on_cpu
@pytest.mark.parametrize(
    'command',
    [
        ['bash', TOOLS / 'dist_train.sh'],
        [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node=2', TOOLS / 'train.py'],
    ],
    ids=['dist_train', 'torchrun'],
)
def test_ranks_and_workers_die_with_their_launcher(tmp_path, command):
    pids = tmp_path / 'pids'
    pids.mkdir()
    (tmp_path / 'slow_hook.py').write_text(SLOW)
    config = write_config(
        tmp_path,
        make_images(tmp_path / 'images'),
        """
custom_imports = dict(imports=['slow_hook'])
custom_hooks = [*_base_.custom_hooks, dict(type='Slow')]
train_cfg.update(max_epochs=1000)
train_dataloader.update(num_workers=1)
""",
    )
    arguments = [config, 2] if 'dist_train' in str(command) else [config, '--launcher', 'pytorch']
    process = run(
        *command,
        *arguments,
        '--work-dir',
        tmp_path / 'run',
        PIDS=str(pids),
        PYTHONPATH=f'{tmp_path}:{TOOLS.parent}',
    )
    while len(os.listdir(pids)) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    ranks = [int(name) for name in os.listdir(pids)]
    workers = [
        int(stat.parent.name)
        for stat in Path('/proc').glob('[0-9]*/stat')
        if parent_of(stat) in ranks
    ]
    assert len(workers) >= 2 and is_locked(tmp_path / 'run')
    process.kill()
    process.wait()
    assert all([ends(pid) for pid in ranks + workers])
    for _ in range(500):  # a process that ends gives back its files last
        if not is_locked(tmp_path / 'run'):
            return
        time.sleep(0.02)
    pytest.fail('the work dir is still locked')


def parent_of(stat):
    try:
        return int(stat.read_text().rpartition(')')[2].split()[1])
    except OSError:
        return None  # ended in the meantime


# ------------------------------------------------------------------ interrupts


@pytest.mark.parametrize(
    'tool, arguments',
    [
        ('train.py', ['c.py']),
        ('test.py', ['c.py', 'a.pth']),
        ('torchrun.py', ['2', 'train.py']),
        ('dist_train.sh', ['c.py', '2']),
        ('mmpretrain_tool.py', []),
        ('quickstart.py', []),
    ],
)
def test_ctrl_c_while_a_tool_is_imported_is_quiet(tmp_path, tool, arguments):
    # What takes seconds to import.
    for name in 'torch', 'torchvision':
        (tmp_path / f'{name}.py').write_text(
            'import time\nprint("importing", flush=True)\ntime.sleep(60)\n'
        )
    python = [] if tool.endswith('.sh') else [sys.executable]
    process = run(*python, TOOLS / tool, *arguments, PYTHONPATH=str(tmp_path))
    assert process.stdout.readline() == 'importing\n'
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ('', '')
    assert process.returncode == 130


@pytest.mark.parametrize(
    'signum', [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_process_that_does_not_end_in_time_is_named(tmp_path, signum):
    script = tmp_path / 'deaf.py'
    script.write_text(
        'import os, signal, time\n'
        f'signal.signal({signum:d}, signal.SIG_IGN)\n'
        'time.sleep(1)  # for the launcher to know of it\n'
        f'os.kill(os.getppid(), {signum:d})\n'
        'time.sleep(60)\n'
    )
    process = run(
        sys.executable, TOOLS / 'torchrun.py', 1, script, TORCH_ELASTIC_SHUTDOWN_TIMEOUT='1'
    )
    err = process.communicate()[1]
    assert process.returncode == 128 + signum, err
    assert err.splitlines()[-1] == (
        f'error: the process of rank 0 had not ended in time after {signum.name} and was killed; '
        'what it had not saved is lost (allow it more time: '
        'TORCH_ELASTIC_SHUTDOWN_TIMEOUT=SECONDS, now 1)'
    )


@pytest.mark.slow
@on_cpu
def test_ctrl_c_before_training_in_several_processes(tmp_path):
    (tmp_path / 'interrupt.py').write_text(
        'import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(60)\n'
    )
    config = write_config(
        tmp_path,
        make_images(tmp_path / 'images'),
        "custom_imports = dict(imports=['interrupt'])\n",
    )
    process = run(
        TOOLS / 'dist_train.sh',
        config,
        2,
        '--work-dir',
        tmp_path / 'run',
        PYTHONPATH=str(tmp_path),
    )
    err = process.communicate()[1]
    assert process.returncode == 130 and 'Traceback' not in err, err
    assert not (tmp_path / 'run').exists()


def test_the_handlers_of_tools_are_not_those_of_who_imports_them(torchrun):
    # A shell starts what runs in its background with SIGINT ignored.
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN)
    assert launch.train and torchrun.main
