import os
import signal
import sys
import threading
import time
from typing import Optional

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook

from poslabel_mm.registry import HOOKS
from .last_saved import last_saved

# Launchers pass a signal on to processes that the terminal has told already.
SAME_SIGNAL_SECONDS = 1.0


class _Received:
    """The first stop signal that this process was sent while it trained."""

    def __init__(self) -> None:
        self.forget()

    def forget(self, work_dir: Optional[str] = None) -> None:
        self.signum: Optional[int] = None
        self.work_dir = work_dir
        self._pid = os.getpid()
        self._time = 0.0

    def handle(self, signum: int, frame) -> None:
        if os.getpid() != self._pid:
            return  # a loader's worker, forked: the training process decides
        if self.signum is None:
            self.signum, self._time = signum, time.monotonic()
        elif time.monotonic() - self._time > SAME_SIGNAL_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)


_received = _Received()


def stop_status() -> Optional[int]:
    """Say, once, what a run left behind that was told to stop.

    Returns:
        int | None: The exit status, 143 after SIGTERM and 130 after SIGINT;
        None if no signal came during training.
    """
    if _received.signum is None:
        return None
    if _received.work_dir is not None and is_main_process():
        saved = last_saved(_received.work_dir)
        left = (f'the last checkpoint is {saved}, what came after it will be '
                'repeated' if saved else 'no checkpoint had been saved yet')
        resume = os.environ.get('POSLABEL_MM_RESUME_COMMAND',
                                'the same command with --resume')
        print(
            f'stopped by {signal.Signals(_received.signum).name}: {left}; '
            f'to go on: {resume}',
            file=sys.stderr,
            flush=True)
    _received.work_dir = None
    return 128 + _received.signum


@HOOKS.register_module()
class StopSignalHook(Hook):
    """Stops training cleanly on SIGTERM and SIGINT.

    The iteration under way is finished (or, in the last one of an epoch, the
    checkpoint and the validation), then all processes leave together with
    status 143 or 130 and one line: what was saved last and how to go on.
    Nothing is saved in mid-epoch: a resumed run starts after the last epoch
    that was saved and is the run that never stopped (see
    :class:`EpochSeedHook`). A second signal ends the process at once.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._previous: dict = {}

    def before_train(self, runner) -> None:
        _received.forget(runner.work_dir)
        # Python delivers signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum,
                                                       _received.handle)

    def before_train_epoch(self, runner) -> None:
        self._stop_together()

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch=None,
                         outputs: Optional[dict] = None) -> None:
        if not self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._stop_together()

    def after_train(self, runner) -> None:
        _received.forget()
        self._restore()

    def _stop_together(self) -> None:
        agreed = torch.tensor(_received.signum or 0)
        all_reduce(agreed, op='max')
        if agreed:
            _received.signum = int(agreed)
            self._restore()
            raise SystemExit(stop_status())

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
