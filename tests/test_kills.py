"""`kill -9` at random moments: a run that is resumed is the run that was never killed.

    POSLABEL_MM_KILLS=10 bash tools/run_tests.sh -m slow tests/test_kills.py

Every process is forked from this one, which has imported everything, and does from there on what
`tools/train.py` does.
"""

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import selfsup_models
import torch
from mmengine.config import Config
from mmpretrain.utils import register_all_modules
from test_mid_epoch_resume import VARIANTS, WITH_VALIDATION, assert_same, files
from tiny_run import RANDOM, make_config, make_images
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from poslabel_mm.engine.files import TEMPORARY
from poslabel_mm.engine.folder_lock import is_locked
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.parent_process import followed
from poslabel_mm.stack.safe_loading import load_from_local

KILLS = int(os.environ.get('POSLABEL_MM_KILLS', 3))  # of each kind of run
SEED = 0
RANKS = 2
SECONDS_TO_END = 120  # of what a killed process leaves behind

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc'),
    pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines'),
]


def with_ema(cfg: Config) -> None:
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    cfg.merge_from_dict({'optim_wrapper.clip_grad': dict(max_norm=0.5)})


def with_accumulation(cfg: Config) -> None:
    cfg.merge_from_dict(VARIANTS['accumulation, CutMix'])
    cfg.merge_from_dict({'train_dataloader.num_workers': 2})


def in_bf16(cfg: Config) -> None:
    cfg.merge_from_dict(VARIANTS['bf16, last batch dropped'])


def in_two_processes(cfg: Config) -> None:
    # Three batches an epoch for each: epochs end between two updates.
    cfg.merge_from_dict({'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 2})


def of_mae(cfg: Config) -> None:
    cfg.model = selfsup_models.mae(
        dict(mask_ratio=0.5),
        type='poslabel_mm.PositionalLabelMAE',
        pos_head=selfsup_models.rpl_head(pairs_per_token=3),
    )
    cfg.data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3)
    for name in 'test_dataloader', 'test_evaluator', 'test_cfg':
        cfg.pop(name)


KINDS = {
    'EMA': with_ema,
    'accumulation, workers': with_accumulation,
    'bf16': in_bf16,
    'two processes': in_two_processes,
    'MAE': of_mae,
}


# ----------------------------------------------------------------- processes


def train(arguments: list[str]) -> None:
    """`tools/train.py`, as a process of its own."""
    torch.set_num_threads(1)
    sys.argv = ['train.py', *arguments]
    launch.train()


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


class Finished:
    """What torch's forked processes wait for after their work: that all have done theirs.

    In its place torch has an Event, whose `set` waits for ever for a process that is killed while
    it waits. Processes of torchrun are not forked, and wait for nothing.
    """

    def __init__(self) -> None:
        self.read, self.write = os.pipe()

    def wait(self) -> None:
        os.read(self.read, 1)

    def set(self) -> None:
        os.write(self.write, bytes(RANKS))


def train_in_two(arguments: list[str]) -> None:
    """`tools/dist_train.sh`: torchrun's launcher, its processes forked too."""
    multiprocessing.get_context('fork').Event = Finished
    os.environ.update(followed())
    elastic_launch(
        LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=RANKS,
            max_restarts=0,
            rdzv_backend='static',
            rdzv_endpoint=f'127.0.0.1:{free_port()}',
            rdzv_configs=dict(rank=0),
            start_method='fork',
        ),
        train,
    )([*arguments, '--launcher', 'pytorch'])


def in_session(target, arguments: list[str], log: Path) -> None:
    os.setsid()
    with log.open('a') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    target(arguments)


def start(kind: str, config: Path, work_dir: Path, log: Path):
    target = train_in_two if kind == 'two processes' else train
    arguments = [str(config), '--work-dir', str(work_dir), '--resume']
    process = multiprocessing.get_context('fork').Process(
        target=in_session, args=(target, arguments, log)
    )
    process.start()
    return process


def session(leader: int) -> list[int]:
    """The processes of a session that have not ended, in the order of their numbers."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = stat.read_text().rpartition(')')[2].split()
        except OSError:
            continue  # ended in the meantime
        if int(fields[3]) == leader and fields[0] not in 'ZX':
            found.append(int(stat.parent.name))
    return sorted(found)


def wait_for_end(process, work_dir: Path) -> None:
    """Nothing of a session goes on, by itself, and its folder is free."""
    process.join(SECONDS_TO_END)
    until = time.monotonic() + SECONDS_TO_END
    while (left := session(process.pid)) or is_locked(work_dir):
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f'{len(left)} processes outlived the killed one')
        time.sleep(0.02)


# --------------------------------------------------------------------- kills


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    # What a run would import, for most of its time to be training.
    register_all_modules()
    return make_images(tmp_path_factory.mktemp('images') / 'train')


def temporary(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob('*') if TEMPORARY.fullmatch(path.name)]


def write_config(tmp_path: Path, data: str, kind: str) -> Path:
    cfg = make_config(tmp_path, data, 'unused', **RANDOM)
    if kind != 'MAE':
        cfg.merge_from_dict(WITH_VALIDATION)
        cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.merge_from_dict({'default_hooks.checkpoint.mid_epoch_interval': 2})
    KINDS[kind](cfg)
    for name in 'work_dir', 'experiment_name':  # each run's own
        cfg.pop(name)
    path = tmp_path / 'kind.py'
    cfg.dump(path)
    return path


def assert_never_killed(work_dir: Path, whole: Path) -> None:
    assert files(work_dir) == files(whole)
    for name in files(whole):
        assert_same(work_dir / name, whole / name)
    assert temporary(work_dir) == []


def wait_for_change(process, work_dir: Path) -> None:
    """Until the run has written a checkpoint, or has ended."""
    before = files(work_dir) if work_dir.exists() else set()
    while process.exitcode is None:
        if work_dir.exists() and files(work_dir) != before:
            return
        time.sleep(0.01)


@pytest.mark.parametrize('kind', KINDS)
def test_killed_at_random_moments(tmp_path, data, kind, record_property):
    config = write_config(tmp_path, data, kind)
    log, whole = tmp_path / 'log.txt', tmp_path / 'whole'
    begun = time.monotonic()
    process = start(kind, config, whole, log)
    wait_for_change(process, whole)
    saving = time.monotonic()
    process.join()
    ended = time.monotonic()
    assert process.exitcode == 0, log.read_text()

    # torchrun's launcher ends with 1 if one of its processes was killed.
    expected = (-signal.SIGKILL, 1) if kind == 'two processes' else (-signal.SIGKILL,)
    draw = random.Random(f'{SEED} {kind}')
    count = SimpleNamespace(kills=0, before_a_checkpoint=0, in_a_write=0, runs=1)
    work_dir = tmp_path / 'run_1'
    while True:
        process = start(kind, config, work_dir, log)
        if count.kills == KILLS:
            moment = None  # left to its end
        elif draw.random() < 0.3:
            moment = draw.uniform(0, ended - begun)
        else:
            wait_for_change(process, work_dir)
            moment = draw.uniform(0, ended - saving)
        process.join(moment)
        victims = session(process.pid) if process.exitcode is None else []
        if victims:
            # Of several processes any one: the launcher, or one that it has started.
            victim = draw.choice(victims) if kind == 'two processes' else process.pid
            os.kill(victim, signal.SIGKILL)
        wait_for_end(process, work_dir)
        if process.exitcode:
            assert victims and process.exitcode in expected, log.read_text()
            saved = files(work_dir) if work_dir.exists() else ()
            for name in saved:
                load_from_local(str(work_dir / name), 'cpu')  # whole
            count.kills += 1
            count.before_a_checkpoint += not saved
            count.in_a_write += bool(temporary(work_dir))
        else:
            # It came to its end, if for it was killed too late.
            assert_never_killed(work_dir, whole)
            if count.kills == KILLS:
                break
            count.runs += 1
            work_dir = tmp_path / f'run_{count.runs}'

    record_property(
        'did',
        f'{kind}: {count.kills} kills in {count.runs} runs, '
        f'{count.before_a_checkpoint} before the first checkpoint, {count.in_a_write} in the '
        'middle of a write',
    )
