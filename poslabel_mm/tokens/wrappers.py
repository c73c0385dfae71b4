"""What a backbone is by its class, and what is inside of a wrapped one."""

from typing import TypeVar

from torch import nn

Entry = TypeVar('Entry')

# What runs a backbone as it is, and the attribute that has it.
WRAPPERS = {
    'LoRAModel': 'module',
    'OptimizedModule': '_orig_mod',
    'FullyShardedDataParallel': 'module',
}


def by_class(backbone: nn.Module, table: dict[str, Entry]) -> Entry | None:
    """The entry of a backbone's class, or of the nearest parent that has one.

    Args:
        backbone (nn.Module): A backbone.
        table (dict): Entries by the names of classes: no backbone has to be imported for its
            entry, and subclasses take after their parents.

    Returns:
        The entry, or None if no class of the backbone's has one.
    """
    for cls in type(backbone).__mro__:
        if cls.__name__ in table:
            return table[cls.__name__]
    return None


def library(backbone: nn.Module) -> str:
    """The package that a backbone's class, or the nearest parent of note, comes from.

    Args:
        backbone (nn.Module): A backbone, not wrapped.

    Returns:
        str: 'timm', 'torchvision', or '' for any other.
    """
    packages = (cls.__module__.partition('.')[0] for cls in type(backbone).__mro__)
    return next((name for name in packages if name in ('timm', 'torchvision')), '')


def unwrapped(backbone: nn.Module) -> nn.Module:
    """The backbone inside of MMPretrain's ``LoRAModel``, compiled or sharded.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.

    Returns:
        nn.Module: The backbone itself.
    """
    while (name := by_class(backbone, WRAPPERS)) is not None:
        backbone = getattr(backbone, name)
    return backbone
