"""Temporary files are in memory where it has the room and runs scripts."""

import os
import tempfile
from types import SimpleNamespace

import pytest
from memory_folder import FOLDER, NOEXEC, memory_folder


@pytest.mark.parametrize(
    'mebibytes, flags, taken',
    [(256, 0, True), (64, 0, False), (256, NOEXEC, False), (256, ~NOEXEC, True)],
)
def test_memory_is_taken_where_it_will_do(monkeypatch, mebibytes, flags, taken):
    found = SimpleNamespace(f_flag=flags, f_bavail=mebibytes << 8, f_frsize=4096)
    monkeypatch.setattr(os, 'statvfs', lambda folder: found)
    monkeypatch.setattr(os, 'access', lambda folder, mode: True)
    assert memory_folder() == (FOLDER if taken else None)


def test_no_folder_in_memory(monkeypatch):
    monkeypatch.setattr(os, 'access', lambda folder, mode: False)
    assert memory_folder() is None


def test_temporary_files_go_with_the_session():
    assert tempfile.gettempdir() not in (FOLDER, '/tmp')
