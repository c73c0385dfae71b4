"""Workers of a loader that find no room in the shared memory: one line."""

import os
import signal
from multiprocessing.queues import Queue
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from poslabel_mm.datasets import shared_memory
from poslabel_mm.launch.guard import Guard
from poslabel_mm.launch.unsent_batches import end_workers_that_cannot_send

FULL = (
    'unable to allocate shared memory(shm) for file </torch_7289_189604473_0>: '
    'No space left on device (28)'
)
TORCHS = (
    'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that '
    "dataloader's workers are out of shared memory. Please try to raise your shared memory limit."
)
NEED = (
    'the workers of the data loader need more shared memory than the 64 MiB of /dev/shm: give the '
    'container more (docker run --shm-size=8g'
)
KILLED = 'a worker of the data loader was killed by a bus error; most often it needs more shared'


def stacked(images):
    """torch's collation in a worker, which allocates the batch."""
    raise RuntimeError(FULL)


def killed(images):
    """Where the system gives room and has none when it is written to."""
    os.kill(os.getpid(), signal.SIGBUS)


class Apart:
    """Images that go into shared memory when they are sent."""

    def __init__(self, images):
        pass

    def __reduce__(self):
        raise RuntimeError(FULL)


@pytest.fixture
def dockers(monkeypatch):
    """What Docker gives a container."""
    status = SimpleNamespace(f_blocks=16384, f_frsize=4096)
    monkeypatch.setattr(shared_memory.os, 'statvfs', lambda path: status)


@pytest.mark.parametrize(
    'text, line',
    [
        (FULL, NEED),
        ('unable to write to file </torch_7289_0>: No space left on device (28)', NEED),
        (TORCHS, KILLED),
    ],
)
def test_full_shared_memory_is_one_line(dockers, capsys, text, line):
    with pytest.raises(SystemExit) as left, Guard():
        raise RuntimeError(text)
    assert left.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f'error: {line}') and printed.count('\n') == 1


def test_large_shared_memory_may_be_full_of_other_files(monkeypatch):
    monkeypatch.setattr(shared_memory, 'shared_memory', lambda: 1 << 32)
    line = shared_memory.shared_memory_line(RuntimeError(FULL))
    assert 'than was free of the 4096 MiB of /dev/shm: remove what ended processes have' in line
    assert 'docker' not in line


@pytest.mark.parametrize(
    'collate, line',
    [(stacked, NEED), (killed, KILLED), (Apart, KILLED)],
)
def test_full_shared_memory_in_a_worker_is_one_line(dockers, capsys, monkeypatch, collate, line):
    monkeypatch.setattr(Queue, '_on_queue_feeder_error', Queue._on_queue_feeder_error)
    end_workers_that_cannot_send()
    loader = DataLoader(
        [0], num_workers=1, collate_fn=collate, multiprocessing_context='fork', timeout=60
    )
    with pytest.raises(SystemExit) as left, Guard():
        next(iter(loader))
    assert left.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f'error: {line}') and printed.count('\n') == 1


def test_other_errors_of_workers_keep_their_traceback(dockers, capsys):
    killed = RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')
    with pytest.raises(RuntimeError, match='Killed'), Guard():
        raise killed
    assert not capsys.readouterr().err
