"""Locks between processes, on files that their owners remove."""

import errno
import os

import pytest

from poslabel_mm import file_lock as module
from poslabel_mm.file_lock import Attempt, file_lock

fcntl = pytest.importorskip('fcntl')


def attempt(path):
    with file_lock(path, blocking=False) as found:
        return found


def test_one_at_a_time(tmp_path):
    with file_lock(tmp_path / 'lock') as found:
        assert found is Attempt.LOCKED
        assert attempt(tmp_path / 'lock') is Attempt.TAKEN
    assert attempt(tmp_path / 'lock') is Attempt.LOCKED


def test_a_file_that_its_owner_has_removed_locks_nothing(tmp_path, monkeypatch):
    path, real = tmp_path / 'lock', module.try_lock

    def late(file, **options):
        path.unlink()  # by the owner, for whom this process has waited
        monkeypatch.setattr(module, 'try_lock', real)
        return real(file, **options)

    monkeypatch.setattr(module, 'try_lock', late)
    with file_lock(path) as found:
        assert found is Attempt.LOCKED
        assert attempt(path) is Attempt.TAKEN  # as any other process that comes now


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    assert attempt(tmp_path / 'lock') is Attempt.NO_LOCKS
    assert os.listdir(tmp_path) == ['lock']  # and no marker that would outlive a killed process


def test_a_file_that_cannot_be_made(tmp_path):
    assert attempt(tmp_path / 'missing' / 'lock') is Attempt.NO_LOCKS
