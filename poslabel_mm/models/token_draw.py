"""Which patches are drawn, where not all are: labelled, masked or kept."""

import torch
from torch import Tensor

from poslabel_mm.models.random_stream import RandomStream
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import absolute_labels


class PatchDraw:
    """Draws a part of the patches of every image, all patches equally likely.

    It draws from a random stream of its own, see :class:`RandomStream`.

    Args:
        ratio (float): The part of an image's n patches that is drawn, more than 0 and at most 1:
            the nearest whole number of patches, and one at least.
        refusal (str): What is drawn and the way out, for the error in a backward pass.
        name (str): Who draws. Other names give other streams.
    """

    def __init__(self, ratio: float, refusal: str, name: str) -> None:
        self.ratio = ratio
        self._stream = RandomStream(refusal, name=name)

    def check_forward(self) -> None:
        """Check that a forward pass may draw now.

        Raises:
            UserError: In a backward pass, in which activation checkpointing repeats the forward
                pass.
        """
        self._stream.check_forward()

    def count(self, n: int) -> int:
        """How many of n patches are drawn."""
        return max(1, round(self.ratio * n))

    @torch.compiler.disable
    def draw(self, B: int, n: int, device: torch.device) -> Tensor:
        """Draw for a batch.

        Args:
            B (int): Images.
            n (int): Patches of an image.
            device (torch.device): Where to draw.

        Returns:
            Tensor: int64 of shape (B, k), which of the n patches are drawn, in random order.

        Raises:
            UserError: If called in a backward pass, as activation checkpointing does to repeat
                the forward pass.
        """
        generator = self._stream.generator(device)
        noise = torch.rand(B, n, generator=generator, device=device)
        return noise.argsort(dim=1)[:, : self.count(n)]


class TokenDraw:
    """Draws the patches that are labelled, see :class:`PatchDraw`.

    Args:
        ratio (float): The part of an image's patches that is drawn.
    """

    def __init__(self, ratio: float) -> None:
        self._patches = PatchDraw(
            ratio,
            'label_ratio draws patches, which activation checkpointing cannot repeat: checkpoint '
            'the backbone alone, or label all patches (label_ratio=1)',
            name='labelled tokens',
        )

    def __call__(self, patch_tokens: PatchTokens) -> PatchTokens:
        """Draw for a batch.

        Args:
            patch_tokens (PatchTokens): Tokens (B, n, C), their grid, and their indices if not all
                are present.

        Returns:
            PatchTokens: Those that were drawn, k tokens of every image with their indices; the
            same object where k = n.

        Raises:
            UserError: As of :meth:`PatchDraw.draw`.
        """
        tokens, grid_shape, indices, *_ = patch_tokens
        B, n, C = tokens.shape
        if self._patches.count(n) == n:
            return patch_tokens
        drawn = self._patches.draw(B, n, tokens.device)
        places = absolute_labels(grid_shape, indices, tokens.device).expand(B, n)
        return PatchTokens(
            tokens.gather(1, drawn.unsqueeze(-1).expand(-1, -1, C)),
            grid_shape,
            places.gather(1, drawn),
        )
