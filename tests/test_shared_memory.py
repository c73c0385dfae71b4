"""Workers of a loader that find no room in the shared memory: one line."""

from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from poslabel_mm.datasets import shared_memory
from poslabel_mm.launch.guard import Guard

FULL = (
    'unable to allocate shared memory(shm) for file </torch_7289_189604473_0>: '
    'No space left on device (28)'
)
ENDS = {
    'the workers of the data loader need more shared memory than the 64 MiB of /dev/shm: give the '
    'container more (docker run --shm-size=8g': [
        FULL,
        'unable to write to file </torch_7289_0>: No space left on device (28)',
    ],
    'a worker of the data loader was killed by a bus error; most often it needs more shared': [
        'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that '
        "dataloader's workers are out of shared memory. Please try to raise your shared memory "
        'limit.',
    ],
}


class Full:
    """What torch's collation raises in a worker."""

    def __init__(self, text):
        self.text = text

    def __call__(self, images):
        raise RuntimeError(self.text)


@pytest.fixture
def dockers(monkeypatch):
    """What Docker gives a container."""
    status = SimpleNamespace(f_blocks=16384, f_frsize=4096)
    monkeypatch.setattr(shared_memory.os, 'statvfs', lambda path: status)


@pytest.mark.parametrize('line, text', [(line, text) for line in ENDS for text in ENDS[line]])
def test_full_shared_memory_is_one_line(dockers, capsys, line, text):
    with pytest.raises(SystemExit) as left, Guard():
        raise RuntimeError(text)
    assert left.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f'error: {line}') and printed.count('\n') == 1


def test_full_shared_memory_in_a_worker_is_one_line(dockers, capsys):
    loader = DataLoader([0], num_workers=1, collate_fn=Full(FULL), multiprocessing_context='fork')
    with pytest.raises(SystemExit) as left, Guard():
        next(iter(loader))
    assert left.value.code == 1
    printed = capsys.readouterr().err
    assert 'more shared memory than the 64 MiB' in printed and printed.count('\n') == 1


def test_other_errors_of_workers_keep_their_traceback(dockers, capsys):
    killed = RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')
    with pytest.raises(RuntimeError, match='Killed'), Guard():
        raise killed
    assert not capsys.readouterr().err
