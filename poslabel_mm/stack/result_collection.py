"""Results of a test in several processes, collected without files.

MMEngine passes the results to the first process through files in ``./.dist_test`` when it collects
them on the CPU, which is the default of every metric. This fails after the first epoch where the
current folder cannot be written or is another one on each node, and processes that are killed
leave their files there.
"""

import functools
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest

DIST = 'mmengine.dist.dist'
# Bytes that are sent at a time: with NCCL they pass through the memory of the GPUs.
PIECE = 2**24


@contextmanager
def collecting_without_files() -> Iterator[None]:
    """Have MMEngine's ``collect_results_cpu`` send results between the processes.

    With a ``tmpdir``, which is the ``collect_dir`` of a metric, it uses files there as before.
    """
    yield
    stock = sys.modules[DIST].collect_results_cpu
    if hasattr(stock, 'without_files'):
        return

    @functools.wraps(stock)
    def collect_results_cpu(
        result_part: list, size: int, tmpdir: str | None = None
    ) -> list | None:
        from mmengine.dist import get_world_size

        if tmpdir is not None or get_world_size() == 1:
            return stock(result_part, size, tmpdir)
        return _collect(result_part, size)

    collect_results_cpu.without_files = True
    # The package above has it under the same name where it has been imported already.
    for name in DIST, 'mmengine.dist':
        module = sys.modules.get(name)
        if getattr(module, 'collect_results_cpu', None) is stock:
            module.collect_results_cpu = collect_results_cpu


def _collect(result_part: list, size: int) -> list | None:
    """The results of all processes in the order of the dataset; None but in the first process.

    Each process sends its part to all, piece by piece: NCCL has no other way that needs neither
    further connections nor room for all parts on a GPU.
    """
    import torch
    from mmengine.dist import all_gather, broadcast, get_rank

    rank = get_rank()
    sent = pickle.dumps(result_part if rank else None)  # the first process keeps its own
    own = torch.frombuffer(bytearray(sent), dtype=torch.uint8)
    lengths = [int(length) for length in all_gather(torch.tensor([len(own)]))]
    parts = [result_part]
    for sender, length in enumerate(lengths[1:], start=1):
        part = own if sender == rank else torch.empty(length, dtype=torch.uint8)
        for piece in part.split(PIECE):
            broadcast(piece, sender)
        if rank == 0:
            parts.append(pickle.loads(part.numpy()))
    if rank != 0:
        return None
    # Samples are dealt out in turn, and the last ones may be there twice to fill up a batch.
    in_turn = (result for results in zip_longest(*parts) for result in results)
    return [result for result in in_turn if result is not None][:size]
