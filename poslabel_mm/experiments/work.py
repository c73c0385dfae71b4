"""Trains and tests runs, a few at a time."""

import importlib.util
import io
import os
import os.path as osp
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import redirect_stdout
from pathlib import Path

from poslabel_mm.engine.unwritable import write_error
from poslabel_mm.errors import UserError
from poslabel_mm.experiments.folder_check import check_checkpoint, check_folder
from poslabel_mm.experiments.launcher import Launcher
from poslabel_mm.experiments.progress import Display
from poslabel_mm.experiments.run import Run
from poslabel_mm.launch.checks.options import check_num_classes
from poslabel_mm.launch.child_processes import ChildProcesses
from poslabel_mm.launch.cpu_threads import bound_cores

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
POLL_SECONDS = 0.5
LINE_SECONDS = 60


class Stopped(Exception):
    """A run was told to stop, together with this process."""


# ------------------------------------------------------------------ before


def problems_of(runs: Iterable[Run]) -> dict[Run, str]:
    """Runs that cannot be done, and why. The others may be done without them."""
    problems: dict[Run, str] = {}
    for run in runs:
        _ = run.cfg  # options that do not fit the config are an error of the whole command
        try:
            check_folder(run)
            if not run.is_done:
                check_checkpoint(run)
                _check_timm(run)
        except UserError as error:
            problems[run] = str(error)
        if run.pretraining in problems and not run.is_trained:
            problems[run] = problems[run.pretraining]
    return problems


def _check_timm(run: Run) -> None:
    if run.cfg.model.backbone.type.endswith('TIMMBackbone') and (
        importlib.util.find_spec('timm') is None
    ):
        raise UserError('it needs timm: install the extra poslabel_mm[nest], or timm itself')


def check_data_of(runs: Iterable[Run]) -> None:
    """Refuse to begin without the data of every run that is to be trained or tested.

    Raises:
        UserError: Naming the config and what its data lack, or an option that does not go with
            their number of classes.
    """
    check_data = data_check()
    checked = []
    for run in runs:
        loaders = [(name, run.cfg[name]) for name in LOADERS if run.cfg.get(name)]
        check_num_classes(run.cfg, tuple(name for name, _ in loaders))
        data = [
            (name, {k: v for k, v in loader.dataset.items() if k != 'pipeline'})
            for name, loader in loaders
        ]
        if data not in checked:
            checked.append(data)
            try:
                check_data(run.cfg, tuple(name for name, _ in loaders))
            except UserError as error:
                raise UserError(f'{run.config}: {error}') from error


def data_check() -> Callable:
    """`check_data`, whose import has MMPretrain print what it did not find."""
    with redirect_stdout(io.StringIO()):
        from poslabel_mm.launch.checks.data import check_data
    return check_data


# ------------------------------------------------------------------ working


class Work:
    """Does runs, ``jobs`` at a time.

    Args:
        launcher (Launcher): How they are started.
        children (ChildProcesses): What stops them.
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

    def do_all(self, runs: list[Run], after_each: Callable[[], None]) -> dict[Run, str]:
        """Do runs, each after its pre-training.

        Args:
            runs (list[Run]): A run's pre-training comes before it, if it is not done.
            after_each (callable): Called when a run has ended.

        Returns:
            dict[Run, str]: The runs that failed, and why.
        """
        failures: dict[Run, str] = {}
        futures: dict[Run, Future] = {}
        spoke = time.monotonic()
        # With a pool the main thread is free for signals.
        with self.display, ThreadPoolExecutor(self.jobs) as pool:
            for run in runs:
                before = run.pretraining and futures.get(run.pretraining)
                futures[run] = pool.submit(self._do, run, before)
            run_of = {future: run for run, future in futures.items()}
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
                if self.children.told is not None:
                    continue
                self.display.update()
                if ended:
                    after_each()
                elif time.monotonic() - spoke > LINE_SECONDS:
                    spoke = time.monotonic()
                    self.display.say_progress()
        return failures

    def say_stopped(self) -> int:
        """Say how to resume after a signal; returns the exit status."""
        print(f'\nstopped; what is done is kept. To resume: {typed_command()}', file=sys.stderr)
        return 128 + self.children.told

    def _do(self, run: Run, before: Future | None) -> None:
        if before is not None and before.exception() is not None:
            raise before.exception()
        self._raise_if_stopped()
        self.started += 1
        place = f'[{self.started}/{self.number}] {run.name}'
        with run.claim() as lock:
            self.display.begin(run)
            try:
                if not run.is_trained:
                    self._train(run, lock, place)
                if run.is_tested and not run.is_done:
                    out = run.folder / 'test.out'
                    self.display.say(f'{place}: testing, log {osp.relpath(out)}')
                    self._call(self.launcher.test(run), lock, out, 'the test')
            finally:
                self.display.end(run)
        top1 = (run.state().metrics or {}).get('accuracy/top1')
        self.display.say(f'{place}: ' + ('trained' if top1 is None else f'top-1 {top1:.2f} %'))

    def _train(self, run: Run, lock, place: str) -> None:
        check_checkpoint(run)
        run.metrics_path.unlink(missing_ok=True)  # of an earlier model
        out = run.folder / 'train.out'
        epoch = run.last_epoch()
        resumed = (
            f', resumed after epoch {epoch}'
            if epoch
            else (', resumed in its first epoch' if run.is_saved() else '')
        )
        self.display.say(f'{place}: training{resumed}, log {osp.relpath(out)}')
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
        if self.children.told is not None:
            raise Stopped


def last_line(path: Path) -> str:
    """The last line with text of a log, without its ``error:``."""
    lines = path.read_text(errors='replace').splitlines()
    last = next((line for line in reversed(lines) if line.strip()), 'no output')
    return last.strip().removeprefix('error: ')


def typed_command() -> str:
    """The command that this process was started with, as one would type it again.

    Scripts that start this process say what the user typed in the variable
    POSLABEL_MM_COMMAND.
    """
    typed = os.environ.get('POSLABEL_MM_COMMAND')
    if typed:
        return typed.strip()
    if sys.argv[0].endswith('.py'):
        return shlex.join(['python', *sys.argv])
    return shlex.join([osp.basename(sys.argv[0]), *sys.argv[1:]])
