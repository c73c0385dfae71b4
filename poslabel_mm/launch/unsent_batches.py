"""Ends a loader's worker that cannot send its batch.

Where a collation keeps the images apart (MMEngine's ``pseudo_collate``), the thread that sends
them puts them into shared memory. Python prints an error of that thread and leaves the batch out;
the process that trains waits for it for ever.
"""

import os
import signal
from multiprocessing.queues import Queue

from torch.utils.data import get_worker_info

from poslabel_mm.datasets.shared_memory import is_full

_print_error = Queue._on_queue_feeder_error


def end_workers_that_cannot_send() -> None:
    """End a worker that cannot send its batch; its loader raises an error."""
    Queue._on_queue_feeder_error = staticmethod(_end_worker)


def _end_worker(error: Exception, batch: object) -> None:
    is_worker = get_worker_info() is not None
    if is_worker and is_full(error):
        # As the system ends a process for which there is no room in shared memory.
        signal.raise_signal(signal.SIGBUS)  # to this thread, which goes on otherwise
    _print_error(error, batch)
    # A connection that is closed is the end of the loader.
    if is_worker and not isinstance(error, ConnectionError):
        os._exit(1)
