"""Losses of a batch whose images have different numbers of patch tokens."""

from collections.abc import Callable, Sequence

from torch import Tensor

from poslabel_mm.tokens import PatchTokens


def mean_over_images(
    loss: Callable[[PatchTokens], dict[str, Tensor]], groups: Sequence[PatchTokens]
) -> dict[str, Tensor]:
    """Losses of a batch in which every image has the same weight, whatever its number of tokens.

    Args:
        loss (callable): From patch tokens to their losses by name, each a mean over the images.
        groups (Sequence[PatchTokens]): The images of the batch.

    Returns:
        dict[str, Tensor]: The losses by name.
    """
    if len(groups) == 1:
        return loss(groups[0])
    num_images = sum(len(group.tokens) for group in groups)
    losses = {}
    for group in groups:
        for name, value in loss(group).items():
            part = value * (len(group.tokens) / num_images)
            losses[name] = losses[name] + part if name in losses else part
    return losses
