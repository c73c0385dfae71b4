import torch
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.random_stream import RandomStream

LABELLED = ('all', 'dropped')


class EncodingDrop:
    """Draws the patches that train without their positional encoding (DropPos, NeurIPS 2023).

    A patch whose encoding is dropped has to find its place by what it shows and by its
    neighbours: its positional label is not solved by copying the encoding. DropPos puts a learned
    vector in the encoding's place; here it is zero (its code has both), so that the state dict
    stays the stock one. With a learned encoding the two differ by a common shift of all encodings
    and the patch embedding's bias alone.

    It draws from a random stream of its own, see :class:`RandomStream`. Passes without gradient,
    as of the momentum encoder of MoCo v3, have another one: as with dropout, two encoders leave
    out other patches of one view.

    Args:
        patches (float): The part of an image's patches whose encoding is dropped, from 0 to 1;
            rounded to whole patches, at least one, as many in every image. Defaults to 0.
        images (float): The probability that an image loses the encoding of all its patches, from
            0 to 1. Defaults to 0.
        labelled (str): Which patches the position heads get to read, 'all' or those that
            ``patches`` has drawn, 'dropped'. Defaults to 'all'.

    Raises:
        UserError: Naming the option that is of the wrong type or out of range, or if 'dropped'
            would leave no patch.
    """

    def __init__(self, patches: float = 0, images: float = 0, labelled: str = 'all') -> None:
        self.patches = options.number('patches', patches, 0, 1)
        self.images = options.number('images', images, 0, 1)
        self.labelled = options.choice('labelled', labelled, LABELLED)
        if labelled == 'dropped' and not patches:
            raise options.wrong(
                'labelled', labelled, 'leaves no patch to label: set patches to more than 0'
            )
        refusal = (
            'pos_drop draws patches, which activation checkpointing cannot repeat: checkpoint '
            "the backbone's layers, not the whole backbone"
        )
        self._stream = RandomStream(refusal, name='pos_drop')
        self._stream_without_grad = RandomStream(refusal, name='pos_drop.1')

    @classmethod
    def build(cls, key: str, value: object) -> 'EncodingDrop | None':
        """From an option: a dict of the arguments, or None.

        Raises:
            UserError: Naming the option.
        """
        if value is None:
            return None
        names = ('patches', 'images', 'labelled')
        if not isinstance(value, dict) or not set(value) <= set(names):
            raise options.wrong(
                key, value, f'is refused: set it to None or a dict of {", ".join(names)}'
            )
        with options.within(key):
            return cls(**value)

    @torch.compiler.disable
    def draw(self, B: int, N: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Draw for a batch.

        Args:
            B (int): Images.
            N (int): Patches of an image.
            device (torch.device): Where to draw.

        Returns:
            tuple[Tensor, Tensor | None]: Where the encoding is dropped, bool of shape (B, N), and
            the places that are labelled, int64 of shape (B, n) in ascending order, None for all.

        Raises:
            UserError: If called in a backward pass, as activation checkpointing does to repeat
                the forward pass: other patches would give the gradient of another loss.
        """
        stream = self._stream if torch.is_grad_enabled() else self._stream_without_grad
        generator = stream.generator(device)
        count = max(round(self.patches * N), 1) if self.patches else 0
        noise = torch.rand(B, N, generator=generator, device=device)
        places = noise.argsort(dim=1)[:, :count].sort(dim=1).values
        dropped = torch.zeros(B, N, dtype=torch.bool, device=device).scatter_(1, places, True)
        dropped |= torch.rand(B, 1, generator=generator, device=device) < self.images
        return dropped, places if self.labelled == 'dropped' else None
