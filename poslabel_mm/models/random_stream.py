"""Random numbers that nothing else in a run draws from."""

import zlib

import numpy as np
import torch
from mmengine.dist import get_rank

from poslabel_mm.errors import UserError
from poslabel_mm.models.recomputation import in_backward


class RandomStream:
    """A random stream that nothing else in a run draws from.

    The stream is made of torch's seed and the rank, so that ranks draw different numbers, a run
    that is seeded anew for each step (:class:`poslabel_mm.engine.EpochSeedHook`) draws after a
    resume what it would have drawn, and nothing else in the run draws other numbers because of it.
    It begins anew when the seed changes, not when the same one is set again.

    Args:
        refusal (str): What is drawn and the way out, for the error in a backward pass.
        name (str, optional): Who draws. Other names give other streams.
    """

    def __init__(self, refusal: str, name: str | None = None) -> None:
        self._refusal = refusal
        self._words = () if name is None else (zlib.crc32(name.encode()),)
        self._seed: int | None = None
        self._generator: torch.Generator | None = None

    def check_forward(self) -> None:
        """Check that a forward pass may draw now.

        Raises:
            UserError: In a backward pass, in which activation checkpointing repeats the forward
                pass: other numbers would give the gradient of another loss.
        """
        if in_backward():
            raise UserError(self._refusal)

    def generator(self, device: torch.device) -> torch.Generator:
        """The stream, where it stands.

        Args:
            device (torch.device): Where to draw.

        Returns:
            torch.Generator: Of that device.

        Raises:
            UserError: As of :meth:`check_forward`.
        """
        self.check_forward()
        seed = torch.initial_seed()
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device)
            self._seed = None
        if seed != self._seed:
            self._seed = seed
            # Mixed, not added: a CPU generator takes 32 bits of what it is given.
            words = np.random.SeedSequence((seed % 2**64, get_rank(), *self._words))
            self._generator.manual_seed(int(words.generate_state(1)[0]))
        return self._generator
