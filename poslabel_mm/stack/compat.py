"""Which MM stack is installed, and what is mended in MMEngine when it is imported."""

import importlib.metadata
from collections.abc import Mapping

from poslabel_mm.stack.fsdp_loading import mend_fsdp_loading
from poslabel_mm.stack.safe_loading import allow_plain_values, refuse_code_in_checkpoints
from poslabel_mm.stack.stacks import ALTERNATIVES, STACKS

__all__ = [
    'StackError',
    'apply',
    'check_installed',
    'check_stack',
    'installed_versions',
    'requirements',
]


class StackError(ImportError):
    """The MM stack is missing, doubled or out of range; one line says what to install."""


def apply() -> None:
    """Mend the loading of checkpoints. Calling it again changes nothing."""
    allow_plain_values()
    refuse_code_in_checkpoints()
    mend_fsdp_loading()


def check_installed() -> None:
    """Check the stack of this environment.

    Raises:
        StackError: If the stack is missing, doubled or out of range.
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
        StackError: If neither stack is installed, or both are, or a
            distribution is missing or out of range.
    """
    found = {}
    for stack in STACKS:
        # Not setuptools, which every environment has.
        present = [n for n in _distributions(stack) if 'mm' in n and n in installed]
        if present:
            found[stack] = present
    if not found:
        raise StackError(
            f'poslabel_mm needs MMPretrain and found none: {_install_command("onedl")}'
        )
    if len(found) > 1:
        raise StackError(
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
        raise StackError(
            f'poslabel_mm cannot use this MM stack, {problem}: {_install_command(stack)}'
        )
    return stack


def _install_command(stack: str) -> str:
    return f'pip install {requirements(stack)}'


def requirements(stack: str) -> str:
    """The distributions of a stack with their versions, as arguments of pip in a shell."""
    return ' '.join(f"'{name}{versions}'" for name, versions in STACKS[stack].items())
