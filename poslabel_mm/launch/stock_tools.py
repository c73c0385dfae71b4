"""The command-line tools that MMPretrain ships."""

import importlib.util
import os
import os.path as osp
from types import ModuleType

from poslabel_mm.errors import UserError


def _tools_folder() -> str:
    package = importlib.util.find_spec('mmpretrain').submodule_search_locations
    # A checkout installed in place has its tools beside the package.
    for folder in (
        osp.join(package[0], '.mim', 'tools'),
        osp.join(osp.dirname(package[0]), 'tools'),
    ):
        if osp.isfile(osp.join(folder, 'train.py')):
            return folder
    raise UserError(
        f'MMPretrain at {package[0]} was installed without its '
        'tools: install its wheel from the package index'
    )


def list_tools() -> list[str]:
    """Paths of the tools below MMPretrain's ``tools/``, sorted."""
    folder = _tools_folder()
    return sorted(
        osp.relpath(osp.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
        if name.endswith('.py')
    )


def tool_path(name: str) -> str:
    """Find a tool.

    Args:
        name (str): Its path below MMPretrain's ``tools/``.

    Returns:
        str: Path of the file.

    Raises:
        UserError: If MMPretrain has no such tool, or was installed without its tools.
    """
    path = osp.join(_tools_folder(), name)
    if not osp.isfile(path):
        raise UserError(f'MMPretrain has no tool {name}; it has {", ".join(list_tools())}')
    return path


def load_tool(path: str) -> ModuleType:
    """Import a tool from its file, without running it."""
    spec = importlib.util.spec_from_file_location('mmpretrain_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
