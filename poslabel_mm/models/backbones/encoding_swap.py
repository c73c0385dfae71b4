import torch
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.random_stream import RandomStream


class EncodingSwap:
    """Draws the patches that train with the positional encoding of another place.

    The encodings of the drawn patches are exchanged among them, so that each gets that of another
    one and every encoding is there once: a doubled one would tell that one of its two patches is
    wrong. A patch that is left out of the image takes its encoding with it. The code of DILEMMA
    (arXiv 2204.04788) draws each patch by itself, and its encoding from those of the patches that
    are left out or, if none are, of all.

    It draws from a random stream of its own, see :class:`RandomStream`.

    Args:
        share (float): The part of an image's patches that are drawn, from 0 on and below 1;
            rounded to whole patches, at least two if it is not 0, as many in every image.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._stream = RandomStream(
            'pos_swap draws patches, which activation checkpointing cannot repeat: checkpoint '
            "the backbone's layers, not the whole backbone",
            name='pos_swap',
        )

    @classmethod
    def build(cls, key: str, value: object) -> 'EncodingSwap | None':
        """From an option: a share, or None.

        Raises:
            UserError: Naming the option.
        """
        if value is None:
            return None
        try:
            return cls(options.fraction(key, value))
        except options.OptionError:
            raise options.wrong(
                key, value, 'is refused: set it to None or a number from 0 on, below 1'
            ) from None

    @torch.compiler.disable
    def draw(self, B: int, N: int, device: torch.device) -> Tensor:
        """Draw for a batch.

        Args:
            B (int): Images.
            N (int): Patches of an image.
            device (torch.device): Where to draw.

        Returns:
            Tensor: int64 of shape (B, N), the place whose encoding each patch gets: its own or,
            where it is drawn, that of another drawn patch.

        Raises:
            UserError: If called in a backward pass, as activation checkpointing does to repeat
                the forward pass: other patches would give the gradient of another loss.
        """
        generator = self._stream.generator(device)
        count = max(round(self.share * N), 2) if self.share else 0
        noise = torch.rand(B, N, generator=generator, device=device)
        drawn = noise.argsort(dim=1)[:, :count]
        places = torch.arange(N, device=device).repeat(B, 1)
        # In a circle of random order each takes from its neighbour.
        return places.scatter_(1, drawn, drawn.roll(1, dims=1))
