"""Which MM stack is installed, and what has to be mended before poslabel_mm can run on it.

:func:`apply` mends everything that does not depend on one tool; calling it again changes nothing.
"""

import importlib.metadata
import sys
from collections.abc import Mapping
from typing import Any

from poslabel_mm.stack.safe_loading import allow_plain_values, refuse_code_in_checkpoints
from poslabel_mm.stack.stacks import ALTERNATIVES, STACKS

__all__ = ['apply', 'check_installed', 'check_stack', 'installed_versions', 'mend_torchvision']


def apply() -> None:
    """Mend torchvision and the loading of checkpoints."""
    mend_torchvision()
    allow_plain_values()
    refuse_code_in_checkpoints()


def check_installed() -> None:
    """Check the stack of this environment.

    Raises:
        ImportError: If the stack is missing, doubled or out of range.
    """
    check_stack(installed_versions())


def installed_versions() -> dict[str, str]:
    """Versions of the stacks' distributions found in this environment."""
    versions = {}
    for stack in STACKS:
        for name in _distributions(stack):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                pass
    return versions


def _distributions(stack: str) -> list[str]:
    """The distributions of a stack, with those that also serve."""
    names = list(STACKS[stack])
    return names + [ALTERNATIVES[n] for n in names if n in ALTERNATIVES]


def check_stack(installed: Mapping[str, str]) -> str:
    """Tell which stack is installed, or in one line what to install.

    Neither stack is a hard requirement of the package, because installing one
    beside the other overwrites files. Needed for as long as there are two.

    Args:
        installed (Mapping[str, str]): Version of each distribution present.

    Returns:
        str: A key of :data:`poslabel_mm.stack.stacks.STACKS`.

    Raises:
        ImportError: If neither stack is installed, or both are, or a
            distribution is missing or out of range.
    """
    found = {}
    for stack in STACKS:
        # Not setuptools, which every environment has.
        present = [n for n in _distributions(stack) if 'mm' in n and n in installed]
        if present:
            found[stack] = present
    if not found:
        raise ImportError(
            f'poslabel_mm needs MMPretrain and found none: {_install_command("onedl")}'
        )
    if len(found) > 1:
        raise ImportError(
            'two MM stacks are installed over each other '
            f'({"; ".join(", ".join(names) for names in found.values())}): '
            f'pip uninstall -y {" ".join(sum(found.values(), []))}, then '
            f'{_install_command("onedl")}'
        )

    # packaging comes with either stack: it cannot be imported before one is found.
    from packaging.specifiers import SpecifierSet

    (stack,) = found
    for name, versions in STACKS[stack].items():
        if name not in installed and ALTERNATIVES.get(name) in installed:
            name = ALTERNATIVES[name]
        if name not in installed:
            problem = f'{name} is missing'
        elif not SpecifierSet(versions).contains(installed[name], prereleases=True):
            problem = f'{name} {installed[name]} is not {versions}'
        else:
            continue
        raise ImportError(
            f'poslabel_mm cannot use this MM stack, {problem}: {_install_command(stack)}'
        )
    return stack


def _install_command(stack: str) -> str:
    wanted = (f"'{name}{versions}'" for name, versions in STACKS[stack].items())
    return f'pip install {" ".join(wanted)}'


_torchvision_schemas: Any | None = None


def mend_torchvision() -> None:
    """Import torchvision where its compiled operators do not load.

    Cause: torchvision registers meta kernels for ``nms`` and ``qnms`` even if
    its library, built for CUDA, cannot load beside a CPU torch, and then fails with
    "operator torchvision::nms does not exist". Their schemas alone are enough;
    the operators themselves stay unavailable, and nothing here calls them.
    Remove when torchvision imports without its library.
    """
    global _torchvision_schemas
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if 'torchvision::nms does not exist' not in str(error):
            raise
        import torch

        # The modules that the failed import left behind are incomplete.
        for name in [n for n in sys.modules if n.startswith('torchvision.')]:
            del sys.modules[name]
        # Kept for the life of the process: the schemas go when it is deleted.
        _torchvision_schemas = torch.library.Library('torchvision', 'DEF')
        for operator in 'nms', 'qnms':
            _torchvision_schemas.define(
                f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
            )
        import torchvision  # noqa: F401
