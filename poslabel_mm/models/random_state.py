import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def independent_random_state(name: str) -> Iterator[None]:
    """Draw torch's random numbers from a stream of one's own.

    A labelled model must start from the very weights, and then see the very
    dropout, that the stock model gets at the same seed; so whatever a position
    head draws comes from a stream made of torch's seed and ``name``, and the
    global streams go on as if nothing had been drawn.

    Args:
        name (str): Who draws. Other names give other streams.
    """
    seed = torch.initial_seed() ^ zlib.crc32(name.encode())
    # Not `torch.manual_seed`: before CUDA is initialised it leaves a seed for
    # the devices behind that no fork takes back.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield
