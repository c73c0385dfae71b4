"""What the MM stack needs before poslabel_mm can run on it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from . import compat, config_prefix, model_hub
from .when_imported import when_imported

# MMPretrain prints it for everybody who has not bought another product's datasets.
NOBODYS_BUSINESS = 'Could not import OneDL\n'


def install() -> None:
    """Have the stack checked and mended when it is imported, or now if it has been.

    Raises:
        ImportError: Then, if the stack is missing, doubled or out of range.
    """
    when_imported('mmengine', _mending_mmengine, before=compat.check_installed)
    when_imported('mmpretrain.datasets', _quietly)
    when_imported('mmpretrain.apis.model', _extending_the_hub)


@contextmanager
def _mending_mmengine() -> Iterator[None]:
    yield
    compat.apply()
    config_prefix.install()


@contextmanager
def _extending_the_hub() -> Iterator[None]:
    yield
    model_hub.install()


@contextmanager
def _quietly() -> Iterator[None]:
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        print(printed.getvalue().replace(NOBODYS_BUSINESS, ''), end='')
