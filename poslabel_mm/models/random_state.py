import zlib
from contextlib import contextmanager
from typing import Iterator

import torch


@contextmanager
def independent_random_state(name: str) -> Iterator[None]:
    """Draw torch's random numbers from a stream of one's own.

    A labelled model must start from the very weights, and then see the very
    dropout, that the stock model gets at the same seed; so whatever a position
    head draws comes from a stream made of torch's seed and ``name``, and the
    global stream goes on as if nothing had been drawn.

    Args:
        name (str): Who draws. Other names give other streams.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() \
        else ()
    seed = torch.initial_seed() ^ zlib.crc32(name.encode())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
