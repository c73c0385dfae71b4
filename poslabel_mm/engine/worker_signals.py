"""Stop signals and a data loader's workers: the training process alone decides."""

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial

from torch.utils.data import DataLoader


def protect_workers(loader: object, stops: tuple[signal.Signals, ...]) -> None:
    """Let the workers that a loader starts from now on outlive stop signals.

    Slurm, systemd and ``kill -- -PGID`` signal the workers along with the process that trains. If
    a worker ended, the iteration under way would fail for lack of data and nothing would be saved.

    Args:
        loader (object): A data loader; anything but torch's is left as it is.
        stops (tuple[Signals]): The signals.
    """
    if isinstance(loader, DataLoader) and loader.num_workers:
        loader.worker_init_fn = partial(_init_worker, stops=stops, init=loader.worker_init_fn)
        if hasattr(signal, 'sigwaitinfo'):
            # A loader's copies, as a resumed epoch makes one, are of its class.
            loader.__class__ = _blocking_sigterm(type(loader))


@functools.cache
def _blocking_sigterm(cls: type[DataLoader]) -> type[DataLoader]:
    """The same data loader, which starts its workers with SIGTERM blocked.

    Every thread inherits the mask of the one that starts it. A worker has threads of torch's
    before its init function runs: one that does not block the signal would take it.
    """

    class Blocking(cls):
        def _get_iterator(self) -> Iterator:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            try:
                return super()._get_iterator()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    Blocking.__name__ = cls.__name__
    return Blocking


def _init_worker(
    worker_id: int, stops: tuple[signal.Signals, ...], init: Callable[[int], None] | None
) -> None:
    if threading.current_thread() is threading.main_thread():  # no process of its own otherwise
        for signum in stops:
            if signum == signal.SIGTERM:
                _obey_parent_alone(signum)
            else:
                signal.signal(signum, signal.SIG_IGN)
    if init is not None:
        init(worker_id)


def _obey_parent_alone(signum: int) -> None:
    """End this process at a signal from its parent, and at nobody else's.

    torch and multiprocessing terminate a worker that hangs with SIGTERM and then wait for it, so
    it must not be ignored. Only waiting for a signal tells who has sent it, and it is blocked in
    every thread already.
    """
    if not hasattr(signal, 'sigwaitinfo'):
        return  # not on macOS: torch's own handler stays
    threading.Thread(target=_wait_for_parent, args=(signum,), daemon=True).start()


def _wait_for_parent(signum: int) -> None:
    while signal.sigwaitinfo({signum}).si_pid != os.getppid():
        pass
    os._exit(0)
