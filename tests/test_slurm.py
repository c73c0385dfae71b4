"""The Slurm scripts, on a Slurm of one node that is started for them."""

import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from tiny_run import make_images, weights, write_config

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = (
    'munged',
    'slurmctld',
    'slurmd',
    'srun',
    'sbatch',
    'scancel',
    'scontrol',
    'sinfo',
    'squeue',
    'setpriv',
)
# Daemons are where only root has a PATH to.
PATH = os.pathsep.join([os.environ['PATH'], '/usr/sbin', '/sbin'])
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
SECONDS = 900  # for what takes some 10, on a machine that does much else

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f'Slurm is not installed: no {", ".join(MISSING)}'),
    pytest.mark.skipif(torch.cuda.is_available(), reason='its GPUs are pretended ones'),
]

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
# A job that was requeued is not started before its credentials have expired.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
# A busy machine may be slow to answer and to stop.
KillWait=600
MessageTimeout=100
SlurmdTimeout=0
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# The node has the processors and GPUs that it is said to have.
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 Gres=gpu:8
PartitionName=gpu Nodes=ALL Default=YES State=UP
"""

# The first time that a process trains the iteration, it waits for a signal.
PAUSE_HOOK = """
import os
import select
import signal
import warnings
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class PauseHook(Hook):
    def __init__(self, iteration, mark):
        self.iteration, self.mark = iteration, f'{mark}_{os.environ["SLURM_PROCID"]}'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration and not os.path.exists(self.mark):
            told, tell = os.pipe()
            os.set_blocking(tell, False)
            before = signal.set_wakeup_fd(tell)
            open(self.mark, 'x').close()
            select.select([told], [], [], 900)
            signal.set_wakeup_fd(before)
"""

# Where a task begins, with how many threads and which GPUs.
SAY_HOOK = """
import os
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class SayHook(Hook):
    def before_train(self, runner):
        names = 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES'
        values = [torch.get_num_threads(), *map(os.environ.get, names)]
        print(f'begins at {runner.iter}: {values}'.replace("'", ''))
"""

MORE_CONFIG = """
train_cfg = dict(by_epoch=True, max_epochs=4)
# 5 images for each of two processes: the last batch has one.
train_dataloader["batch_size"] = 2
default_hooks['checkpoint'] = dict(type='poslabel_mm.AtomicCheckpointHook', interval=1)
custom_imports = dict(imports=['slurm_hooks'], allow_failed_imports=False)
custom_hooks = _base_.custom_hooks + [dict(type='SayHook')] + {hooks!r}
"""


@pytest.fixture(scope='module')
def slurm():
    """Environment of a Slurm with one node of 8 GPUs, whose daemons end with the tests."""
    # The path of a socket has 107 characters at most, and munged wants a folder that all may
    # enter: not tmp_path. Its scripts are run from there: not memory, which containers may forbid.
    folder = Path(tempfile.mkdtemp(prefix='slurm-', dir='/tmp'))
    folder.chmod(0o755)
    daemons = []
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('SLURM', 'SBATCH', 'OMP_', 'MKL_', 'POSLABEL_MM_', 'MASTER_'))
    }
    env.update(PATH=PATH, SLURM_CONF=str(folder / 'slurm.conf'))

    def start(*command):
        with open(folder / f'{command[0]}.out', 'w') as out:
            # They end too if the tests are killed.
            daemons.append(
                subprocess.Popen(
                    ['setpriv', '--pdeathsig', 'KILL', *map(str, command)],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            )

    try:
        _write_slurm(folder, host := socket.gethostname().partition('.')[0])
        munge = folder / 'munge'
        start(
            'munged',
            '--foreground',
            f'--key-file={munge}/key',
            f'--socket={munge}/socket',
            f'--pid-file={munge}/pid',
            f'--log-file={munge}/log',
            f'--seed-file={munge}/seed',
        )
        _wait_for((munge / 'socket').exists, munge.parent)
        start('slurmctld', '-D')
        start('slurmd', '-D', '-N', host)
        _wait_for(lambda: 'idle' in _run('sinfo', '-h', '-o', '%T', env=env).stdout, folder)
        yield env
        _run('scancel', '--partition=gpu', env=env)
        _wait_for(lambda: _run('squeue', '-h', env=env).stdout == '', folder)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder)


def _write_slurm(folder: Path, host: str) -> None:
    for name in 'state', 'spool', 'munge':
        (folder / name).mkdir(mode=0o755)
    key = folder / 'munge' / 'key'
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    with (
        socket.create_server(('127.0.0.1', 0)) as one,
        socket.create_server(('127.0.0.1', 0)) as two,
    ):
        ports = one.getsockname()[1], two.getsockname()[1]
    (folder / 'slurm.conf').write_text(
        SLURM_CONF.format(folder=folder, host=host, ports=ports, user=getpass.getuser())
    )
    for number in range(8):
        (folder / f'gpu{number}').symlink_to(os.devnull)  # only root can make a device
    (folder / 'gres.conf').write_text(f'NodeName={host} Name=gpu File={folder}/gpu[0-7]\n')


def _wait_for(condition, logs=None):
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            said = [f'{path.name}: {path.read_text()[-3000:]}' for path in logs.glob('*.out')]
            pytest.fail('\n'.join(['waited in vain', *said]))
        time.sleep(0.1)


def _run(*command, env):
    return subprocess.run(
        [str(part) for part in command],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


class Job:
    """A folder with the tiny config, and the scripts run in it on two GPUs."""

    def __init__(self, folder: Path, slurm: dict, pause: bool = False) -> None:
        self.folder = folder
        (folder / 'modules').mkdir(parents=True)
        (folder / 'modules' / 'slurm_hooks.py').write_text(SAY_HOOK + PAUSE_HOOK)
        data = make_images(folder / 'images', per_class=5)
        hooks = [dict(type='PauseHook', iteration=4, mark=f'{folder}/paused')] * pause
        self.config = write_config(folder, data, MORE_CONFIG.format(hooks=hooks))
        self.work_dir = folder / 'run'
        path = os.pathsep.join([str(folder / 'modules'), str(ROOT)])
        self.env = {**slurm, 'PYTHONPATH': path}
        self.settings = {'GPUS': '2', 'PYTHON': sys.executable}
        self.train = [
            str(ROOT / 'tools' / 'slurm_train.sh'),
            'gpu',
            'tiny',
            self.config,
            str(self.work_dir),
        ]

    def run(self, *command):
        return _run(*command, env={**self.env, **self.settings})

    def test(self):
        return self.run(
            ROOT / 'tools' / 'slurm_test.sh',
            'gpu',
            'test',
            self.config,
            self.work_dir / 'epoch_4.pth',
            f'--out={self.folder}/result.json',
            '--out-item=metrics',
        )

    def said(self) -> str:
        return (self.folder / 'job.out').read_text()

    def wait_for_pause(self) -> None:
        marks = [self.folder / f'paused_{rank}' for rank in range(2)]
        _wait_for(lambda: all(mark.exists() for mark in marks), self.folder)

    def check_same_as(self, trained) -> None:
        """A job that was stopped has the weights of the one that was not, bit for bit."""
        job, _ = trained
        expected, actual = (weights(one.work_dir / 'epoch_4.pth') for one in (job, self))
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.fixture(scope='module')
def trained(slurm, tmp_path_factory):
    """A job that nothing stopped, and what it said."""
    job = Job(tmp_path_factory.mktemp('trained'), slurm)
    return job, job.run(*job.train)


def test_train_and_test(trained):
    job, run = trained
    assert run.returncode == 0, run.stdout + run.stderr
    assert (job.work_dir / 'epoch_4.pth').is_file()
    # Each has its share of the cores, and sees the GPUs of the job.
    cores = min(os.cpu_count(), 2 * 5)  # CPUS_PER_TASK is 5
    threads = max(1, min(cores // 2, len(os.sched_getaffinity(0))))
    assert run.stdout.count(f'begins at 0: [{threads}, {threads}, {threads}, 0,1]\n') == 2
    for warning in 'NUM_THREADS', 'Grad strides', 'Traceback':
        assert warning not in run.stderr
    test = job.test()
    assert test.returncode == 0, test.stdout + test.stderr
    assert 'accuracy/top1' in (job.folder / 'result.json').read_text()


def test_scancel_stops_it_and_the_line_that_it_says_resumes_it(slurm, trained, tmp_path):
    job = Job(tmp_path, slurm, pause=True)
    with open(tmp_path / 'job.out', 'w') as out:
        srun = subprocess.Popen(
            job.train,
            env={**job.env, **job.settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    job.wait_for_pause()
    # Meanwhile another job of the node is not kept from its port.
    beside = trained[0].test()
    assert beside.returncode == 0, beside.stdout + beside.stderr
    assert _run('scancel', '--name=tiny', env=slurm).returncode == 0
    assert srun.wait(SECONDS) == 143
    said = job.said()
    assert 'Traceback' not in said
    stopped, resume = re.search('^stopped by SIGTERM: (.*); to resume: (.*)$', said, re.M).groups()
    assert f'{job.work_dir}/epoch_' in stopped
    typed = [f'{name}={value}' for name, value in job.settings.items()]
    assert shlex.split(resume) == [*typed, *job.train, '--resume']
    again = _run('bash', '-c', resume, env=job.env)
    assert again.returncode == 0, again.stdout + again.stderr
    job.check_same_as(trained)


def test_requeued_job_goes_on_by_itself(slurm, trained, tmp_path):
    job = Job(tmp_path, slurm, pause=True)
    script = ' '.join(
        [
            *(f'{name}={shlex.quote(value)}' for name, value in job.settings.items()),
            shlex.join(job.train),
        ]
    )
    sent = _run(
        'sbatch',
        '--parsable',
        '--requeue',
        '--partition=gpu',
        '--gres=gpu:2',
        '--ntasks=2',
        '--cpus-per-task=5',
        '--open-mode=append',
        f'--output={tmp_path}/job.out',
        f'--wrap={script}',
        env=job.env,
    )
    assert sent.returncode == 0, sent.stderr
    number = sent.stdout.strip()
    job.wait_for_pause()
    assert _run('scontrol', 'requeue', number, env=slurm).returncode == 0
    ended = re.compile('JobState=(COMPLETED|FAILED|CANCELLED|NODE_FAIL)')
    _wait_for(
        lambda: ended.search(_run('scontrol', 'show', 'job', number, env=slurm).stdout), tmp_path
    )
    said = job.said()
    assert 'Traceback' not in said and said.count('stopped by SIGTERM') == 1
    begun = re.findall('^begins at ([0-9]+)', said, re.M)
    # After the last epoch, or after the last iteration where a stop saves it.
    assert begun[:2] == ['0', '0'] and begun[2:] in (['3', '3'], ['5', '5'])
    job.check_same_as(trained)
