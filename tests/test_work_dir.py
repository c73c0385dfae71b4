"""Folders that cannot be used, or are used by others: one line, nothing lost."""

import errno
import itertools
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time

import pytest
import torch
from test_bad_input_tools import config, fails, folder, trained  # noqa: F401
from tiny_run import listing

from poslabel_mm import UserError, file_lock
from poslabel_mm.engine import files as atomic_file
from poslabel_mm.engine import folder_lock, write_atomically
from poslabel_mm.engine.files import AtomicLocalBackend
from poslabel_mm.engine.folder_lock import is_locked, lock_folder
from poslabel_mm.engine.unwritable import check_writable, unwritable, write_error
from poslabel_mm.launch import preparation
from poslabel_mm.launch import tools as launch

pytestmark = pytest.mark.usefixtures('flushed_to_disk')

FORK = multiprocessing.get_context('fork')


def in_child(function, *arguments):
    """Start a function in a process of its own, which is there at once."""
    process = FORK.Process(target=function, args=arguments)
    process.start()
    return process


def wait_for(condition, *arguments):
    for _ in range(6000):  # fails rather than hangs
        if condition(*arguments):
            return
        time.sleep(0.01)
    pytest.fail('what was waited for did not come')


# --------------------------------------------------------------------- writers


def write_often(path, content, times):
    for _ in range(times):
        write_atomically(content, path)


def test_two_writers_of_one_path_leave_a_whole_file(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    small, large = b'a' * 100_000, b'b' * 300_000
    path.write_bytes(small)
    writers = [in_child(write_often, path, content, 150) for content in (small, large)]
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_bytes())
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen <= {small, large}
    assert os.listdir(tmp_path) == ['epoch_1.pth']


def write_and_die(path):
    atomic_file.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    write_atomically(b'new', path)


def test_what_a_killed_writer_left_is_swept_but_not_what_is_being_written(tmp_path):
    for name in 'epoch_1.pth', 'epoch_2.pth':
        writer = in_child(write_and_die, tmp_path / name)
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
    for name in 'epoch_3.pth', 'epoch_5.pth':  # as earlier versions named it
        (tmp_path / f'.{name}.tmp').touch()
    (tmp_path / '.own.tmp').touch()
    assert len(os.listdir(tmp_path)) == 4  # the second swept after the first
    with atomic_file._open_locked(str(tmp_path), 'epoch_4.pth') as under_way:
        for name in 'epoch_3.pth', 'epoch_5.pth':
            write_atomically(b'whole', tmp_path / name)
        left = {'epoch_3.pth', 'epoch_5.pth', '.own.tmp', os.path.basename(under_way.name)}
        assert set(os.listdir(tmp_path)) == left
    assert (tmp_path / 'epoch_3.pth').read_bytes() == b'whole'


def test_a_temporary_file_that_was_swept_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    lock, swept = atomic_file.try_lock, []

    def sweep_first(file, **options):
        if not swept:
            swept.append(file.name)
            os.remove(file.name)
        return lock(file, **options)

    monkeypatch.setattr(atomic_file, 'try_lock', sweep_first)
    write_atomically(b'whole', tmp_path / 'file')
    assert swept and (tmp_path / 'file').read_bytes() == b'whole'


@pytest.mark.parametrize('number', [errno.EBADF, errno.ENOSYS, errno.ENOLCK])
def test_where_files_cannot_be_locked_nothing_that_is_being_written_is_swept(
    tmp_path, monkeypatch, number
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_lock.fcntl, 'flock', refuse)
    abandoned = tmp_path / '.epoch_1.pth.01234567.tmp'
    abandoned.touch()
    os.utime(abandoned, times=(0, 0))
    with atomic_file._open_locked(str(tmp_path), 'epoch_2.pth') as under_way:
        write_atomically(b'whole', tmp_path / 'epoch_3.pth')
        assert set(os.listdir(tmp_path)) == {'epoch_3.pth', os.path.basename(under_way.name)}
    with lock_folder(tmp_path), lock_folder(tmp_path):
        assert not is_locked(tmp_path)


def test_exclusive_locks_are_on_files_open_for_writing_as_nfs_demands(tmp_path, monkeypatch):
    flock = file_lock.fcntl.flock

    def as_nfs(file, operation):
        if operation & file_lock.fcntl.LOCK_EX and not file.writable():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if operation & file_lock.fcntl.LOCK_SH and not file.readable():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(file_lock.fcntl, 'flock', as_nfs)
    (tmp_path / '.epoch_1.pth.01234567.tmp').touch()  # of a killed process, a moment ago
    with atomic_file._open_locked(str(tmp_path), 'epoch_3.pth') as under_way:
        write_atomically(b'whole', tmp_path / 'epoch_2.pth')
        assert set(os.listdir(tmp_path)) == {'epoch_2.pth', os.path.basename(under_way.name)}
    with lock_folder(tmp_path):
        assert is_locked(tmp_path)


def test_many_files_in_a_folder_cost_one_listing_and_pictures_no_wait(tmp_path, monkeypatch):
    listed, synced = [], []
    listdir, fsync = os.listdir, os.fsync
    monkeypatch.setattr(
        atomic_file.os, 'listdir', lambda path: listed.append(path) or listdir(path)
    )
    monkeypatch.setattr(atomic_file.os, 'fsync', lambda number: synced.append(1) or fsync(number))
    backend = AtomicLocalBackend()
    for i in range(3):
        backend.put(b'picture', tmp_path / 'shown' / f'{i}.PNG')
    assert not listed and not synced
    for i in range(3):
        backend.put(b'result', tmp_path / f'{i}.pkl')
        backend.put_text('result', tmp_path / f'{i}.json')
    assert listed == [str(tmp_path)] and len(synced) == 12
    assert (tmp_path / 'shown' / '2.PNG').read_bytes() == b'picture'


def test_files_have_the_permissions_of_any_new_file(tmp_path):
    write_atomically(b'', tmp_path / 'file')
    (tmp_path / 'other').touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('file', 'other')]
    assert modes[0] == modes[1]


# ------------------------------------------------------------------------ lock


def hold(folder):
    lock = lock_folder(folder)
    time.sleep(60)
    lock.close()


def test_a_folder_is_refused_while_its_owner_lives(tmp_path):
    owner = in_child(hold, tmp_path)
    wait_for(is_locked, tmp_path)
    wait_for((tmp_path / 'lock').read_text)
    for _ in range(2):
        with pytest.raises(UserError, match=f'process {owner.pid} on .* is at work in'):
            lock_folder(tmp_path)
    owner.kill()
    owner.join()
    assert not is_locked(tmp_path)
    lock_folder(tmp_path).close()
    assert not is_locked(tmp_path)


def test_a_listing_that_looks_at_the_lock_does_not_have_a_run_refused(tmp_path, monkeypatch):
    lock_folder(tmp_path).close()
    looking = open(tmp_path / 'lock')
    assert file_lock.try_lock(looking, shared=True) is file_lock.Attempt.LOCKED
    # It is through before the second attempt.
    monkeypatch.setattr(folder_lock.time, 'sleep', lambda _: looking.close())
    lock_folder(tmp_path).close()


def test_a_worker_that_outlives_its_parent_does_not_keep_the_folder(tmp_path):
    lock = lock_folder(tmp_path)
    worker = in_child(time.sleep, 60)
    lock.close()
    try:
        wait_for(lambda: not is_locked(tmp_path))
        assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


def test_without_locks_a_folder_is_everybodys(tmp_path, monkeypatch):
    monkeypatch.setattr(file_lock, 'fcntl', None)
    with lock_folder(tmp_path), lock_folder(tmp_path):
        assert not is_locked(tmp_path)


def test_training_in_a_work_dir_in_use_is_refused(fails, folder, config, monkeypatch):
    work_dir = folder / 'run'
    argv = [config, '--work-dir', work_dir, '--resume']
    with lock_folder(work_dir):
        before = listing(folder)
        line = fails(launch.train, *argv)
        assert f'process {os.getpid()} on' in line and f'is at work in {work_dir}' in line
        assert listing(folder) == before
        # A test of what is there may be done while training goes on.
        run(monkeypatch, launch.test, config, work_dir / 'epoch_1.pth', '--work-dir', work_dir)
        # The folder may have been locked for this process.
        monkeypatch.setenv('POSLABEL_MM_LOCKED', f'["{work_dir}"]')
        run(monkeypatch, launch.train, *argv)
    monkeypatch.delenv('POSLABEL_MM_LOCKED')
    run(monkeypatch, launch.train, *argv)
    assert not is_locked(work_dir)
    assert (work_dir / 'epoch_3.pth').exists()


def run(monkeypatch, tool, *argv):
    monkeypatch.setattr(sys, 'argv', [f'{tool.__name__}.py', *map(str, argv)])
    tool()


# ------------------------------------------------------------ folders and disks


@pytest.mark.parametrize(
    'work_dir, named',
    [
        ('file', 'could not write {0}/file/lock ({0}/file is a file)'),
        ('file/below', 'could not write {0}/file/below/lock ({0}/file is a file)'),
    ],
)
def test_work_dir_is_a_file(fails, folder, config, monkeypatch, work_dir, named):
    (folder / 'file').touch()
    before = listing(folder)
    line = fails(launch.train, config, '--work-dir', folder / work_dir)
    assert named.format(folder) in line
    line = fails(
        launch.test, config, folder / 'run' / 'epoch_2.pth', '--work-dir', folder / work_dir
    )
    assert f'{folder / "file"}' in line and 'is a file' in line
    assert listing(folder) == before


@pytest.fixture
def refused(monkeypatch):
    """Have the system refuse new files in a folder; nobody refuses root."""

    def refuse(folder, number):
        opened = open

        def refusing(path, mode='r', *args, **kwargs):
            if str(path).startswith(str(folder)) and set(mode) & set('wxa'):
                raise OSError(number, os.strerror(number), str(path))
            return opened(path, mode, *args, **kwargs)

        monkeypatch.setattr('builtins.open', refusing)

    return refuse


@pytest.mark.parametrize(
    'number, cause, way_out',
    [
        (errno.EROFS, 'Read-only file system', 'make this one writable'),
        (errno.EACCES, 'Permission denied', 'make this one writable'),
        (errno.ENOSPC, 'No space left on device', 'free some space'),
    ],
)
def test_work_dir_that_takes_no_files(fails, folder, config, refused, number, cause, way_out):
    before = listing(folder)
    refused(folder / 'run', number)
    for tool, argv in (
        (launch.train, [config, '--resume']),
        (launch.test, [config, folder / 'run' / 'epoch_2.pth']),
    ):
        line = fails(tool, *argv, '--work-dir', folder / 'run')
        assert f'could not write {folder / "run"}/' in line
        assert f'({cause})' in line and way_out in line
    assert listing(folder) == before


@pytest.mark.skipif(sys.platform != 'linux', reason='needs a folder that refuses everybody')
def test_work_dir_that_cannot_be_made(fails, folder, config):
    line = fails(launch.train, config, '--work-dir', '/sys/poslabel_mm')
    assert 'could not write /sys/poslabel_mm/lock (' in line


@pytest.mark.parametrize(
    'out, item, named',
    [
        ('nowhere/out.pkl', None, 'the folder of --out'),
        ('folder.pkl', None, 'is a folder: name a file'),
        ('out.json', None, 'must end in .pkl or .pickle'),
        ('out.txt', 'metrics', 'must end in .json or'),
    ],
)
def test_out_that_cannot_be_written(fails, folder, config, out, item, named):
    (folder / 'folder.pkl').mkdir()
    before = listing(folder)
    item = ['--out-item', item] if item else []
    line = fails(
        launch.test,
        config,
        folder / 'run' / 'epoch_2.pth',
        '--work-dir',
        folder / 'run',
        '--out',
        folder / out,
        *item,
    )
    assert named in line and str(folder / out) in line
    assert listing(folder) == before


def test_out_where_no_file_can_be_written(fails, folder, config, refused):
    (folder / 'results').mkdir()
    refused(folder / 'results', errno.EROFS)
    before = listing(folder)
    line = fails(
        launch.test,
        config,
        folder / 'run' / 'epoch_2.pth',
        '--work-dir',
        folder / 'run',
        '--out',
        folder / 'results' / 'out.pkl',
    )
    assert f'could not write {folder}/results/out.pkl (Read-only file system)' in line
    assert listing(folder) == before  # it is not found out after the test


def test_out_is_written_whole_or_not_at_all(fails, folder, config, monkeypatch):
    out = folder / 'out.json'
    argv = [
        config,
        folder / 'run' / 'epoch_2.pth',
        '--work-dir',
        folder / 'run',
        '--out',
        out,
        '--out-item',
        'metrics',
    ]
    run(monkeypatch, launch.test, *argv)
    before = out.read_bytes()
    assert before.startswith(b'{')

    def no_space(source, target, replace=os.replace):
        if target == str(out):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(atomic_file.os, 'replace', no_space)
    line = fails(launch.test, *argv)
    assert f'could not write {out} (No space left on device)' in line
    assert out.read_bytes() == before
    assert not list(folder.glob('.*'))


def limited(limit, tool, *argv):
    """In a process of its own: a limit cannot be raised again by everybody."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    sys.argv = [f'{tool.__name__}.py', *map(str, argv)]
    tool()


@pytest.mark.parametrize(
    'limit, named',
    [
        (1000, '{1}'),  # where the stack copies configs to
        (4000, '{0}/log'),
        (16_000, '{0}/epoch_1.pth'),
    ],
)
def test_a_limit_on_the_size_of_files(folder, config, capfd, limit, named):
    work_dir = folder / 'new'
    process = in_child(limited, limit, launch.train, config, '--work-dir', work_dir)
    process.join()
    assert process.exitcode == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith('error'))
    named = named.format(work_dir, tempfile.gettempdir())
    assert f'could not write {named} (File too large' in line
    assert 'ulimit -f unlimited' in line
    assert not list(work_dir.glob('*.pth')) and not list(work_dir.glob('.*'))


def test_a_log_that_cannot_be_written_ends_the_run(fails, folder, config, monkeypatch):
    emit = logging.StreamHandler.emit
    lines = itertools.count()

    def full(self, record):
        if isinstance(self, logging.FileHandler) and next(lines) == 5:
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                return self.handleError(record)
        emit(self, record)

    monkeypatch.setattr(logging.StreamHandler, 'emit', full)
    line = fails(
        launch.train, config, '--work-dir', folder / 'new', '--cfg-options', 'log_level=INFO'
    )
    assert f'could not write {folder}/new/' in line and '.log (No space left' in line
    assert next(lines) == 6


def test_work_dir_that_is_removed_under_the_run(fails, folder, config, monkeypatch):
    step = torch.optim.AdamW.step

    def remove(self, *args, **kwargs):
        shutil.rmtree(folder / 'new', ignore_errors=True)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, 'step', remove)
    line = fails(launch.train, config, '--work-dir', folder / 'new')
    assert line == (
        f'error: {folder}/new was removed while the run was writing to it: leave it '
        'in place until the run has ended'
    )


# ------------------------------------------------------------- the line itself


def test_causes_are_named_and_other_errors_left_alone(tmp_path):
    def line(number, name=None):
        return write_error(OSError(number, os.strerror(number), name), tmp_path)

    assert f'could not write {tmp_path} (No space' in line(errno.ENOSPC)
    assert f'could not write {tmp_path}/a (Perm' in line(errno.EACCES, f'{tmp_path}/a')
    assert line(errno.EACCES, '/data/a.jpg') == '/data/a.jpg cannot be used: Permission denied'
    for other in (
        OSError(errno.ENOENT, 'none', 'x'),
        BrokenPipeError(errno.EPIPE, 'pipe'),
        ValueError(),
    ):
        assert write_error(other, tmp_path) is None
    assert 'No usable temporary directory found in' in write_error(
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), None
    )
    missing = unwritable(tmp_path / 'no' / 'file', OSError(errno.ENOENT, 'none'))
    assert 'its folder does not exist' in str(missing)
    check_writable(tmp_path / 'file')
    assert os.listdir(tmp_path) == []


# ----------------------------------------------------------------- interrupts


def interrupted(tool, *argv):
    preparation.check_data = lambda *_: os.kill(os.getpid(), signal.SIGINT)
    sys.argv = [f'{tool.__name__}.py', *map(str, argv)]
    tool()


def test_ctrl_c_before_training_and_test(folder, config, capfd):
    before = listing(folder)
    for tool, argv in (
        (launch.train, [config]),
        (launch.test, [config, folder / 'run' / 'epoch_2.pth']),
    ):
        process = in_child(interrupted, tool, *argv)
        process.join()
        assert process.exitcode == 130
        assert 'Traceback' not in capfd.readouterr().err
    assert listing(folder) == before


def test_the_handler_of_ctrl_c_is_given_back(fails, folder, config):
    handler = signal.getsignal(signal.SIGINT)
    fails(launch.train, 'nothing.py')
    assert signal.getsignal(signal.SIGINT) is handler
