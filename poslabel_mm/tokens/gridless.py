"""Backbones that, as they are configured, have no patch grid to read."""

from collections.abc import Callable

from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.tokens.wrappers import by_class


def _class_scores(backbone: nn.Module) -> str | None:
    if getattr(backbone, 'num_classes', -1) > 0:
        return (
            'with num_classes set it returns class scores, one vector an '
            'image; leave num_classes out for its feature map'
        )


def _checkpointed_stages(backbone: nn.Module) -> str | None:
    if backbone.with_cp and backbone.gap_before_final_norm:
        return (
            'with_cp=True runs its stages block by block, out of sight; '
            'set with_cp=False, or gap_before_final_norm=False'
        )


# From a backbone to why it has none, or None.
REASONS: dict[str, Callable[[nn.Module], str | None]] = {
    'AlexNet': _class_scores,
    'LeNet5': _class_scores,
    'VGG': _class_scores,
    'HorNet': _checkpointed_stages,
    'InceptionV3': lambda _: 'it returns class scores, one vector an image',
}


def check_has_grid(backbone: nn.Module) -> None:
    """Refuse a backbone that is known to show no patch grid.

    Args:
        backbone (nn.Module): The backbone, not wrapped.

    Raises:
        UserError: If it has none.
    """
    reason = by_class(backbone, REASONS)
    reason = reason and reason(backbone)
    if reason:
        name = type(backbone).__name__
        raise UserError(f'{name} exposes no patch grid to a position head: {reason}.')
