"""Packages that only some of the formats need."""

import importlib.util

from poslabel_mm.errors import UserError

INSTALL = "pip install 'poslabel_mm[exchange]'"


def check_packages(purpose: str, *names: str) -> None:
    """Refuse a format whose packages are not installed.

    Args:
        purpose (str): What needs them, such as ``--to onnx``.
        *names (str): The modules.

    Raises:
        UserError: With those that are missing and the command that installs them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'{purpose} needs {", ".join(missing)}: {INSTALL}')
