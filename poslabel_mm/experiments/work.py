"""The training and test of runs, several at a time."""

import os
import os.path as osp
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from poslabel_mm.engine.unwritable import make_folder, write_error
from poslabel_mm.errors import UserError
from poslabel_mm.experiments.checks import check_data_of, problems_of
from poslabel_mm.experiments.console import print_line
from poslabel_mm.experiments.folder_check import check_checkpoint
from poslabel_mm.experiments.launcher import Launcher
from poslabel_mm.experiments.progress import Display
from poslabel_mm.experiments.run import Run
from poslabel_mm.launch.child_processes import ChildProcesses
from poslabel_mm.launch.cpu_threads import bound_cores
from poslabel_mm.typed_command import shell_line, typed_words

POLL_SECONDS = 0.5
LINE_SECONDS = 60
# Metrics that are printed when a run has ended, with their names.
PRINTED = {'accuracy/top1': 'top-1', 'mIoU': 'mIoU'}


class Stopped(Exception):
    """A run was stopped, together with this process."""


def run_all(
    runs: Sequence[Run],
    launcher: Launcher,
    jobs: int = 1,
    after_each: Callable[[], None] = lambda: None,
    at_the_end: Callable[[], None] = lambda: None,
) -> int:
    """Train and test the runs that are not done, and resume those that were interrupted.

    A run that cannot be done is named with its reason, and the others are done.

    Args:
        runs (Sequence[Run]): Below one folder. A pre-training comes before its fine-tuning.
        launcher (Launcher): Makes their commands.
        jobs (int): Runs at a time. Defaults to 1.
        after_each (callable): Called when a run has ended.
        at_the_end (callable): Called when all have ended, unless a signal stopped them.

    Returns:
        int: The exit status: 0 if all runs are done, 1 if some are not, and 128 + N if signal N
        stopped them.

    Raises:
        UserError: For data, batches and folders that cannot be used, before anything is made.
    """
    problems = problems_of(runs)
    needed = [run for run in runs if run not in problems and not run.is_done]
    check_data_of(needed)
    for run in needed:
        launcher.train(run)  # can the batch be shared out?
    if problems and not needed:
        print_failures(problems)
        return 1
    parent = runs[0].parent
    make_folder(parent)
    print_line(f'{len(needed)} of {len(runs)} runs to be done, in {osp.relpath(parent)}')
    print_failures(problems)
    # srun answers SIGTERM by killing its tasks; SIGINT the launcher has it forward.
    children = ChildProcesses(
        signal.SIGINT if launcher.partition else None, 'stopping after the iteration under way ...'
    )
    try:
        failures = Work(launcher, children, Display(needed), jobs).run(needed, after_each)
    finally:
        children.restore()
    if children.received is not None:
        print(f'\nstopped; what is done is kept. To resume: {typed_command()}', file=sys.stderr)
        return 128 + children.received
    at_the_end()
    print_failures(problems | failures)
    return int(bool(problems or failures))


def print_failures(failures: dict[Run, str]) -> None:
    """Print one error for every reason, with the runs that it stopped."""
    by_reason: dict[str, list[str]] = {}
    for run, reason in failures.items():
        by_reason.setdefault(' '.join(reason.split()), []).append(run.name)
    for reason, names in by_reason.items():
        print(f'error: {"; ".join(names)}: {reason}', file=sys.stderr, flush=True)


class Work:
    """Trains and tests runs, ``jobs`` at a time.

    Args:
        launcher (Launcher): Makes their commands.
        children (ChildProcesses): Runs the commands, and stops them on a signal.
        display (Display): Where their progress is shown.
        jobs (int): Runs at a time.
    """

    def __init__(
        self, launcher: Launcher, children: ChildProcesses, display: Display, jobs: int
    ) -> None:
        self.launcher = launcher
        self.children = children
        self.display = display
        self.jobs = jobs
        self.number = len(display.epochs)
        self.started = 0

    def run(self, runs: Sequence[Run], after_each: Callable[[], None]) -> dict[Run, str]:
        """Do runs, each after its pre-training.

        Args:
            runs (Sequence[Run]): A run's pre-training comes before it, if it is not done.
            after_each (callable): Called when a run has ended.

        Returns:
            dict[Run, str]: The runs that failed, and why.
        """
        failures: dict[Run, str] = {}
        # By the folder: a row's run that is the pre-training of another has further tests.
        futures: dict[Path, Future] = {}
        run_of: dict[Future, Run] = {}
        printed_at = time.monotonic()
        # With a pool the main thread is free for signals.
        with self.display, ThreadPoolExecutor(self.jobs) as pool:
            for run in runs:
                before = run.pretraining and futures.get(run.pretraining.folder)
                futures[run.folder] = pool.submit(self._run_one, run, before)
                run_of[futures[run.folder]] = run
            waiting = set(run_of)
            while waiting:
                ended, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                for future in ended:
                    run, error = run_of[future], future.exception()
                    reason = write_error(error, run.folder)
                    if isinstance(error, UserError) or reason is not None:
                        failures[run] = reason or str(error)
                    elif error is not None and not isinstance(error, Stopped):
                        raise error
                if self.children.received is not None:
                    continue
                self.display.update()
                if ended:
                    after_each()
                elif time.monotonic() - printed_at > LINE_SECONDS:
                    printed_at = time.monotonic()
                    self.display.print_progress()
        return failures

    def _run_one(self, run: Run, before: Future | None) -> None:
        # What it starts from is there if only a test of it failed.
        if before is not None and before.exception() and not run.pretraining.is_trained:
            raise before.exception()
        self._raise_if_stopped()
        self.started += 1
        place = f'[{self.started}/{self.number}] {run.name}'
        with run.claim() as lock:
            self.display.begin(run)
            try:
                if not run.is_trained:
                    self._train(run, lock, place)
                failed = []
                for test in run.missing_tests():
                    out = run.folder / 'test.out'
                    name = f' {test.id}' if test.id else ''
                    make_folder(run.metrics_path(test).parent)
                    self.display.print_line(f'{place}: testing{name}, log {osp.relpath(out)}')
                    try:
                        self._call(self.launcher.test(run, test), lock, out, f'the test{name}')
                    except UserError as error:
                        failed.append(str(error))
                if failed:
                    raise UserError('; '.join(failed))
            finally:
                self.display.end(run)
        metrics = run.state().metrics
        known = [key for key in PRINTED if key in (metrics or {})]
        found = ', '.join(f'{PRINTED[key]} {metrics[key]:.2f} %' for key in known)
        self.display.print_line(f'{place}: {found or ("tested" if metrics else "trained")}')

    def _train(self, run: Run, lock, place: str) -> None:
        check_checkpoint(run)
        run.remove_metrics()  # of an earlier model
        out = run.folder / 'train.out'
        epoch = run.last_epoch()
        resumed = (
            f', resumed after epoch {epoch}'
            if epoch
            else (', resumed in its first epoch' if run.is_saved() else '')
        )
        self.display.print_line(f'{place}: training{resumed}, log {osp.relpath(out)}')
        self._call(self.launcher.train(run), lock, out, 'training')
        if not run.is_trained:
            raise UserError(
                'training ended without the checkpoint of its last epoch '
                f'(all of it: {osp.relpath(out)})'
            )

    def _call(self, command, lock, out: Path, what: str) -> None:
        self._raise_if_stopped()
        env = {**command.env, 'POSLABEL_MM_RESUME_COMMAND': typed_command()}
        if self.jobs > 1:
            env.setdefault(
                'OMP_NUM_THREADS',
                os.environ.get('OMP_NUM_THREADS', str(max(1, bound_cores() // self.jobs))),
            )
        with open(out, 'a') as log:
            status = self.children.run(command.words, env, [lock], log)
        self._raise_if_stopped()
        if status:
            raise UserError(f'{what} failed: {last_line(out)} (all of it: {osp.relpath(out)})')

    def _raise_if_stopped(self) -> None:
        if self.children.received is not None:
            raise Stopped


def last_line(path: Path) -> str:
    """The last line with text of a log, without its ``error:``."""
    lines = path.read_text(errors='replace').splitlines()
    last = next((line for line in reversed(lines) if line.strip()), 'no output')
    return last.strip().removeprefix('error: ')


def typed_command() -> str:
    """The command that this process was started with, as a line for a shell."""
    return shell_line(typed_words(sys.argv))
