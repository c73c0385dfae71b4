"""Random numbers that depend on what they are for, and on nothing drawn before."""
import operator
import random
import zlib
from collections import Counter
from typing import Any, Iterable, Iterator, Sized

import numpy as np
import torch
from torch.utils.data import Dataset

# The first word of a seed: what the numbers are for.
STEP, SAMPLE = 1, 2


def seed_from(*entropy: int) -> None:
    """Seed python, numpy and torch (every device) from some integers."""
    words = _seed_host(entropy)
    torch.manual_seed(int(words[2]))


def _seed_host(entropy: tuple[int, ...]) -> np.ndarray:
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    return words


class SeededIndices:
    """A sampler whose indices bring along the seed of their sample.

    The seed is made of the run's seed, the epoch, the index, the rank, and how often the rank has
    drawn that index in this epoch (samplers may repeat an image for it to be augmented anew). So a
    sample is the same whichever worker loads it, and however many batches were skipped.

    Args:
        sampler (Iterable): Yields lists of indices if ``batched``, else indices.
        batched (bool): Whether it is a loader's batch sampler.

    Attributes:
        entropy (tuple[int, ...]): Seed, epoch and rank: set it before each epoch.
        skipped (int): How many items of the epoch are left out at its beginning.
    """

    def __init__(self, sampler: Iterable, batched: bool) -> None:
        self.sampler = sampler
        self.batched = batched
        self.entropy: tuple[int, ...] = ()
        self.skipped = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator:
        drawn: Counter = Counter()
        entropy, skipped = self.entropy, self.skipped
        for number, item in enumerate(self.sampler):
            seeded = []
            for index in item if self.batched else [item]:
                key = _number(index)
                seeded.append((index, (SAMPLE, *entropy, key, drawn[key])))
                drawn[key] += 1
            if number >= skipped:
                yield seeded if self.batched else seeded[0]


def _number(index: Any) -> int:
    try:
        return operator.index(index) % 2**64
    except TypeError:  # of a sampler over several data sets
        return zlib.crc32(repr(index).encode())


class SeededSamples(Dataset):
    """A dataset that seeds python, numpy and torch before it loads a sample.

    Args:
        dataset (Sized): The dataset, whose attributes it also has.
    """

    def __init__(self, dataset: Sized) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, seeded_index: tuple) -> Any:
        index, entropy = seeded_index
        # Of torch's generators only the CPU's: samples are loaded there, and a worker must not
        # touch the others.
        torch.default_generator.manual_seed(int(_seed_host(entropy)[2]))
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)
