"""yapf's cache of grammars, half of which another process has written."""

import functools
import os
import pickle
import sys

import pytest
import yapf  # noqa: F401  (which alone can import its driver)
from yapf_third_party._ylib2to3.pgen2 import driver

GRAMMAR = 'PatternGrammar.txt'  # the small one of the two


@pytest.fixture
def cache(tmp_path):
    # `force` as of a cache that has never been read.
    path = tmp_path / 'grammar.pickle'
    driver.load_grammar(GRAMMAR, gp=str(path), force=True)
    return path


def read(load, path):
    return load(GRAMMAR, gp=str(path)).__dict__


@pytest.mark.parametrize('kept', [0, 100])
def test_half_a_file_is_built_again(cache, kept):
    whole = cache.read_bytes()
    cache.write_bytes(whole[:kept])
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        read(driver.load_grammar.__wrapped__, cache)
    expected = pickle.loads(whole)
    assert read(driver.load_grammar, cache) == expected
    assert pickle.loads(cache.read_bytes()) == expected


def test_a_whole_file_is_read_as_it_is(cache):
    before = os.stat(cache).st_ino
    assert read(driver.load_grammar, cache) == pickle.loads(cache.read_bytes())
    assert os.stat(cache).st_ino == before  # yapf moves what it writes


def test_other_processes_see_whole_files_or_build_their_own(cache, monkeypatch):
    # What yapf does to a reader: it moves the file before its buffer is written.
    seen, rename = [], os.rename

    def renamed(source, target):
        rename(source, target)
        with pytest.raises(EOFError):
            driver.load_grammar.__wrapped__(GRAMMAR, gp=str(cache))
        seen.append(read(functools.partial(driver.load_grammar, save=False), cache))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'rename', renamed)
        driver.load_grammar.__wrapped__(GRAMMAR, gp=str(cache), force=True)
    assert seen == [pickle.loads(cache.read_bytes())]


def test_there_may_be_no_home_for_a_cache(cache, monkeypatch):
    def no_home(name):
        raise RuntimeError('could not determine the home directory')

    monkeypatch.setattr(driver, '_generate_pickle_name', no_home)
    with pytest.raises(RuntimeError, match='home'):
        driver.load_grammar.__wrapped__(GRAMMAR)
    assert driver.load_grammar(GRAMMAR).__dict__ == pickle.loads(cache.read_bytes())


def test_tests_that_start_together_have_it():
    # OpenMMLab's MMEngine imports yapf: conftest.py imports it after poslabel_mm.
    imported = list(sys.modules)
    assert imported.index('poslabel_mm') < imported.index(driver.__name__)
