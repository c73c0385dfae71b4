import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import torch
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from poslabel_mm.engine.hooks.atomic_checkpoint_hook import AtomicCheckpointHook
from poslabel_mm.engine.hooks.last_saved import last_saved
from poslabel_mm.engine.resumable_train_loop import ResumableTrainLoop
from poslabel_mm.engine.worker_signals import protect_workers
from poslabel_mm.registry import HOOKS

# SIGUSR1 is commonly Slurm's warning before the time limit.
SIGNALS = tuple(
    getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGUSR1') if hasattr(signal, name)
)

# Launchers forward a signal that the terminal has sent to the processes already.
SAME_SIGNAL_SECONDS = 1.0


class _Received:
    """The first stop signal that this process received in training."""

    def __init__(self) -> None:
        self.trainings = 0
        # The handlers of the program that trains, by signal.
        self._previous: dict[int, Callable | int | None] = {}
        self.forget()

    def forget(self, work_dir: str | None = None, loop=None) -> None:
        """Start anew, with no signal received.

        Args:
            work_dir (str, optional): The folder of the run's checkpoints.
            loop (object, optional): The training loop. A signal stops the training only while
                the loop's ``run`` is executed. Without a loop every signal does.
        """
        self.trainings += 1  # alike in all processes
        self._run_of_loop = getattr(getattr(type(loop), 'run', None), '__code__', None)
        self.signum: int | None = None
        self.work_dir = work_dir
        # Only the main process knows why a checkpoint could not be written.
        self.may_print = is_main_process()
        # The moment that was saved because of the signal, or why none was.
        self.saved: str | None = None
        self.failure: str | None = None
        self._pid = os.getpid()
        self._time = 0.0

    def install(self) -> None:
        """Take the stop signals of this process, in training."""
        for signum in SIGNALS:
            previous = signal.signal(signum, self.handle)
            if previous != self.handle:  # which a training that failed has left
                self._previous[signum] = previous

    def restore(self) -> None:
        """Give the signals back."""
        for signum, handler in self._previous.items():
            # None was not installed from Python and cannot be from here.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def handle(self, signum: int, frame) -> None:
        if not self._is_training(frame):
            # Training failed. In a notebook the next signal is for another cell; a process that
            # was forked since then has inherited this handler and must end by the signal.
            self.restore()
            os.kill(os.getpid(), signum)
            return
        if os.getpid() != self._pid:
            # A loader's worker, whose stack is a copy from the fork: the training process decides.
            return
        if self.signum is None:
            self.record(signum)
        elif time.monotonic() - self._time > SAME_SIGNAL_SECONDS:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _is_training(self, frame) -> bool:
        """Look at the stack, as no hook is called that could reset a flag when training fails."""
        if self._run_of_loop is None:
            return True
        while frame is not None and frame.f_code is not self._run_of_loop:
            frame = frame.f_back
        return frame is not None

    def record(self, signum: int) -> None:
        """Record a signal of the system or of another process of the run."""
        if self.signum is None:
            # Its own copy of what stopped another process may come a moment later.
            self._time = time.monotonic()
        self.signum = signum

    def summary(self) -> str:
        """Describe the checkpoint that the run can be resumed from."""
        saved = last_saved(self.work_dir)
        if saved is None:
            left = 'no checkpoint had been saved yet'
        elif self.saved is not None:
            left = f'saved {self.saved} in {saved}'
        else:
            left = f'the last checkpoint is {saved}; the iterations after it will be repeated'
        return left if self.failure is None else f'{self.failure}; {left}'


_received = _Received()


def stop_status() -> int | None:
    """Print, once, what a run that a signal stopped has saved.

    Returns:
        int | None: The exit status, 128 + N after signal N (143 for SIGTERM,
        130 for SIGINT); None if no signal came during training.
    """
    if _received.signum is None:
        return None
    if _received.work_dir is not None and _received.may_print and _is_first_to_print():
        resume = os.environ.get('POSLABEL_MM_RESUME_COMMAND', 'the same command with --resume')
        print(
            f'stopped by {signal.Signals(_received.signum).name}: '
            f'{_received.summary()}; to resume: {resume}',
            file=sys.stderr,
            flush=True,
        )
    _received.work_dir = None
    return 128 + _received.signum


def _is_first_to_print() -> bool:
    if not torch.distributed.is_initialized():
        return True
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        return store.add(f'poslabel_mm_stopped_{_received.trainings}', 1) == 1
    except RuntimeError:
        return is_main_process()  # the store has ended with the process that held it


@HOOKS.register_module()
class StopSignalHook(Hook):
    """Saves and stops on SIGTERM, SIGINT and SIGUSR1.

    The iteration under way is finished, with accumulated gradients up to the
    one that updates the weights. Then the run is saved in mid-epoch, and all
    processes leave together with status 143, 130 or 138 and one line: what
    was saved and how to resume. A resumed run starts at the next iteration
    and is the run that never stopped (see :class:`EpochSeedHook`). A second
    signal ends the process at once.

    If the epoch that is being validated was saved, the validation is left to
    the resumed run; otherwise it is finished first.

    It saves through :class:`AtomicCheckpointHook` and in MMEngine's
    epoch-based loop as :class:`EpochSeedHook` resumes it. Without these, and
    where the file cannot be written, the line names the last checkpoint.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._has_signals = False
        self._checkpoints: AtomicCheckpointHook | None = None

    def before_train(self, runner) -> None:
        _received.forget(runner.work_dir, getattr(runner, 'train_loop', None))
        self._checkpoints = next(
            (
                hook
                for hook in getattr(runner, 'hooks', ())
                if isinstance(hook, AtomicCheckpointHook)
            ),
            None,
        )
        self._protect_workers(runner)
        # Python delivers signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            _received.install()
            self._has_signals = True

    @staticmethod
    def _protect_workers(runner) -> None:
        for name in 'train_loop', 'val_loop':
            loop = getattr(runner, name, None)
            loader = getattr(loop, 'dataloader', None)
            protect_workers(loader, SIGNALS)
            if isinstance(loop, IterBasedTrainLoop):
                # MMEngine 0.10.7 starts its workers with the loop.
                loader._iterator = None
                loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)

    def before_train_epoch(self, runner) -> None:
        if self._agreed():
            self._leave(runner, runner.epoch, runner.iter)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        # The last of an epoch is stopped after when the epoch was saved.
        if not self.end_of_epoch(runner.train_dataloader, batch_idx) and self._agreed():
            if self._resumes_in_mid_epoch(runner) and not self._checkpoints.can_save(runner):
                return  # gradients are accumulated: the next iteration
            self._leave(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner) -> None:
        is_over = self.is_last_train_epoch(runner) and runner.val_loop is None
        # Resumed, other loops would skip the validation that follows.
        if self._resumes_in_mid_epoch(runner) and not is_over and self._agreed():
            self._leave(runner, runner.epoch + 1, runner.iter)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Each process for itself: they may validate on unequal numbers of
        # batches, and nothing is to be saved.
        if (
            self._has_signals
            and _received.signum
            and self._resumes_in_mid_epoch(runner)
            and self._checkpoints.has_saved(runner.iter)
        ):
            _received.saved = _moment(runner, runner.epoch)
            # A launcher kills the others, and the main process may be among them.
            _received.may_print = True
            self._end()

    def after_train(self, runner) -> None:
        _received.forget()
        self._restore()

    def _resumes_in_mid_epoch(self, runner) -> bool:
        return self._checkpoints is not None and isinstance(runner.train_loop, ResumableTrainLoop)

    def _agreed(self) -> bool:
        """Whether any process received a stop signal."""
        agreed = torch.tensor(_received.signum or 0)
        all_reduce(agreed, op='max')
        if agreed:
            _received.record(int(agreed))
        return bool(agreed)

    def _leave(self, runner, epoch: int, iterations: int) -> None:
        try:
            if iterations > 0:
                self._save(runner, epoch, iterations)
        except Exception as error:  # the run stops nevertheless
            _received.failure = ' '.join(str(error).split())
        stop_status()
        # A launcher kills the others when the first process ends.
        barrier()
        self._end()

    def _save(self, runner, epoch: int, iterations: int) -> None:
        if self._resumes_in_mid_epoch(runner):
            self._checkpoints.save_mid_epoch(runner, epoch, iterations)
            _received.saved = _moment(runner, epoch)
        elif self._checkpoints is not None and isinstance(runner.train_loop, IterBasedTrainLoop):
            if not self._checkpoints.has_saved(iterations):
                self._checkpoints.save_iteration(runner, iterations)
            _received.saved = f'at iteration {iterations}'

    def _end(self) -> None:
        self._restore()
        raise SystemExit(stop_status())

    def _restore(self) -> None:
        if self._has_signals:
            _received.restore()
        self._has_signals = False


def _moment(runner, epoch: int) -> str:
    """The moment in training, given the number of complete epochs."""
    position = runner.train_loop.position
    if position:
        return f'at iteration {position} of epoch {epoch + 1}'
    return f'at the end of epoch {epoch}'
