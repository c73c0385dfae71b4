"""yapf beside other processes that fill its cache.

yapf keeps the grammar of Python in the user's cache, and moves the file to its name before it has
written all of it: a process that starts at the same moment, as the ranks of a job on a fresh
machine do when they print the config, reads half a file and ends with an EOFError. A process that
is killed at that moment leaves a file with which yapf cannot be imported again. Without a home
there is no place for the cache, which is an error too.
"""

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DRIVER = 'yapf_third_party._ylib2to3.pgen2.driver'


@contextmanager
def rebuilding_grammars() -> Iterator[None]:
    """Have yapf build a grammar that it cannot read from its cache.

    Remove when yapf closes the file before it moves it, and does without a cache.
    """
    yield
    driver = sys.modules[DRIVER]
    stock = driver.load_grammar
    if hasattr(stock, 'rebuilds_grammars'):
        return

    @functools.wraps(stock)
    def load_grammar(*args, **kwargs):
        try:
            return stock(*args, **kwargs)
        except Exception:  # half a pickle may raise any
            try:
                return stock(*args, **kwargs | {'force': True})
            except RuntimeError:  # there is no home, and so no cache
                return stock(*args, **kwargs | {'gp': os.devnull, 'force': True, 'save': False})

    load_grammar.rebuilds_grammars = True
    driver.load_grammar = load_grammar
