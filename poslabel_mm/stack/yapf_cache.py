"""yapf beside other processes that fill its cache.

yapf keeps the grammar of Python in the user's cache, and moves the file to its name before it has
written all of it: a process that starts at the same moment, as the ranks of a job on a fresh
machine do when they print the config, reads half a file and ends with an EOFError. A process that
is killed at that moment leaves a file with which yapf cannot be imported again.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DRIVER = 'yapf_third_party._ylib2to3.pgen2.driver'


@contextmanager
def replacing_damaged_files() -> Iterator[None]:
    """Have yapf build a grammar again that it cannot read.

    Remove when yapf closes the file before it moves it.
    """
    yield
    driver = sys.modules[DRIVER]
    stock = driver.load_grammar
    if hasattr(stock, 'replaces_damaged_files'):
        return

    @functools.wraps(stock)
    def load_grammar(*args, **kwargs):
        try:
            return stock(*args, **kwargs)
        except Exception:  # half a pickle may raise any
            return stock(*args, **kwargs | {'force': True})

    load_grammar.replaces_damaged_files = True
    driver.load_grammar = load_grammar
