"""Random numbers that depend on their purpose, and on nothing drawn before."""

import hashlib
import random
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from torch.utils.data import Dataset

# The first part of a seed: the purpose of the numbers.
STEP, SAMPLE = 'step', 'sample'

_WORDS = struct.Struct('<3I')


def seed_from(*entropy: int | str) -> None:
    """Seed python, numpy and torch, the device that is trained on included.

    ``torch.manual_seed`` may take 1 ms for this: it records the stack for every kind of device
    that has not been used yet.

    Args:
        *entropy (int | str): What the random numbers depend on.
    """
    seed = _seed_host(_text_of(entropy))
    device = get_device()
    if device == 'cuda' and torch.cuda.is_initialized():
        for generator in torch.cuda.default_generators:
            generator.manual_seed(seed)
    elif device != 'cpu':
        torch.manual_seed(seed)


def _text_of(entropy: Iterable[int | str]) -> str:
    return ' '.join(map(str, entropy))


def _seed_host(text: str) -> int:
    """Seed python, numpy and torch on the CPU; returns torch's seed."""
    # For every sample, so each microsecond counts: of small images one takes 200 to load.
    for_python, for_numpy, for_torch = _WORDS.unpack(
        hashlib.blake2b(text.encode(), digest_size=12).digest()
    )
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)
    return for_torch


class SeededIndices:
    """A sampler that pairs each index with the seed of its sample.

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
        times_before = _Drawn().times_before
        start, skipped = _text_of((SAMPLE, *self.entropy)), self.skipped
        for number, item in enumerate(self.sampler):
            seeded = [
                (index, f'{start} {index!s} {times_before(index)}')
                for index in (item if self.batched else [item])
            ]
            if number >= skipped:
                yield seeded if self.batched else seeded[0]


class _Drawn:
    """How often each index was drawn, in four bytes for each image of a dataset."""

    def __init__(self) -> None:
        self._of_positions = array('I')
        self._of_others: Counter = Counter()

    def times_before(self, index: Any) -> int:
        """Count a draw of an index; returns how many there were before it."""
        if not isinstance(index, (int, np.integer)) or index < 0:
            counts, index = self._of_others, str(index)
        else:
            counts = self._of_positions
            if index >= len(counts):
                missing = max(index + 1, 2 * len(counts)) - len(counts)
                counts.frombytes(bytes(missing * counts.itemsize))
        times = counts[index]
        counts[index] = times + 1
        return times


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
        index, text = seeded_index
        _seed_host(text)  # a worker must not touch other devices
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)
