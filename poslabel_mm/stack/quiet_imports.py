"""Imports of the MM stack without messages about parts that are not used here."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

# Printed by OneDL's MMPretrain wherever OneDL's own datasets are not installed.
ONEDL_LINE = 'Could not import OneDL\n'

# Warned by mmcv-lite, which has no compiled operators.
MISSING_OPERATOR = 'Fail to import ``MultiScaleDeformable'


def ignore_missing_operator() -> None:
    """Ignore mmcv-lite's warning that it lacks an operator, which only detectors use."""
    warnings.filterwarnings('ignore', MISSING_OPERATOR)


@contextmanager
def without_onedl_line() -> Iterator[None]:
    """Leave one line out of what is printed inside."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        print(printed.getvalue().replace(ONEDL_LINE, ''), end='')
