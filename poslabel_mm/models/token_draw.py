"""Which patches are labelled, where not all are."""

import torch
from torch import Tensor

from poslabel_mm.models.random_stream import RandomStream
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import absolute_labels


class TokenDraw:
    """Draws a part of the patches of every image, all patches equally likely.

    It draws from a random stream of its own, see :class:`RandomStream`.

    Args:
        ratio (float): The part of an image's n patches that is drawn, more than 0 and at most 1:
            the nearest whole number of patches, and one at least.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self._stream = RandomStream(
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
            UserError: If called in a backward pass, as activation checkpointing does to repeat
                the forward pass.
        """
        tokens, grid_shape, indices, *_ = patch_tokens
        B, n, C = tokens.shape
        k = max(1, round(self.ratio * n))
        if k == n:
            return patch_tokens
        drawn = self._draw(B, n, k, tokens.device)
        places = absolute_labels(grid_shape, indices, tokens.device).expand(B, n)
        return PatchTokens(
            tokens.gather(1, drawn.unsqueeze(-1).expand(-1, -1, C)),
            grid_shape,
            places.gather(1, drawn),
        )

    @torch.compiler.disable
    def _draw(self, B: int, n: int, k: int, device: torch.device) -> Tensor:
        generator = self._stream.generator(device)
        return torch.rand(B, n, generator=generator, device=device).argsort(dim=1)[:, :k]
