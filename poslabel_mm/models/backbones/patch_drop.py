import torch
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.token_draw import PatchDraw


class PatchDrop:
    """Draws the patches that are left of an image in training: the sparse student of DILEMMA.

    It draws from a random stream of its own, see :class:`~..random_stream.RandomStream`.

    Args:
        rate (float): The part of an image's patches that is left out, from 0 on and below 1;
            rounded to whole patches, one is left at least, as many in every image.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._left = PatchDraw(
            1 - rate,
            'patch_drop_rate draws patches, which activation checkpointing cannot repeat: '
            "checkpoint the backbone's layers, not the whole backbone",
            name='patch_drop_rate',
        )

    @classmethod
    def build(cls, key: str, value: object) -> 'PatchDrop | None':
        """From an option: a rate, of which 0 leaves nothing out and gives None.

        Raises:
            UserError: Naming the option.
        """
        rate = options.fraction(key, value)
        return cls(rate) if rate else None

    def draw(self, B: int, N: int, device: torch.device) -> Tensor:
        """Draw for a batch.

        Args:
            B (int): Images.
            N (int): Patches of an image.
            device (torch.device): Where to draw.

        Returns:
            Tensor: int64 of shape (B, n), the places of those that are left, in ascending order.

        Raises:
            UserError: If called in a backward pass, as activation checkpointing does to repeat
                the forward pass: other patches would give the gradient of another loss.
        """
        return self._left.draw(B, N, device).sort(dim=1).values
