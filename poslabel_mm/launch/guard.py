"""Errors of a tool as one line, and which of several processes prints it."""

import multiprocessing
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import torch

from poslabel_mm.datasets.shared_memory import shared_memory_line
from poslabel_mm.engine.hooks.stop_signal_hook import stop_status
from poslabel_mm.engine.ranks import local_rank
from poslabel_mm.engine.work_dir import WorkDir
from poslabel_mm.errors import UserError, user_error_behind
from poslabel_mm.launch.build_errors import build_error_line


class Guard:
    """A context that turns a user's error into one line and exit status 1.

    Ctrl-C and stop signals exit with their own status. Any other exception keeps its traceback.

    Attributes:
        work_dir (WorkDir): The work dir of the tool that runs inside; it is released at the end,
            and errors of the file system name it.
    """

    def __init__(self) -> None:
        self.work_dir = WorkDir()

    def __enter__(self) -> 'Guard':
        self.on_interrupt = signal.getsignal(signal.SIGINT)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self._explain(error)
        finally:
            signal.signal(signal.SIGINT, self.on_interrupt)
            self.work_dir.leave()

    def _explain(self, error: BaseException | None) -> None:
        error = user_error_behind(error)
        if error is None or isinstance(error, SystemExit):
            return
        if isinstance(error, UserError):
            self._leave(1, f'error: {_line_of(error, self.work_dir)}')
        # Loader workers and other processes received the signal as well: a failure that
        # follows from it is no error.
        status = stop_status()
        if status is not None:
            self._leave(status)
        if isinstance(error, KeyboardInterrupt):
            self._leave(130, 'interrupted')
        line = _line_of(error, self.work_dir)
        if line is not None:
            self._leave(1, f'error: {line}')

    def _leave(self, status: int, line: str | None = None) -> NoReturn:
        if line is not None and _is_first_to_fail():
            print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
        raise SystemExit(status)


def leave_interrupted(signum: int, frame: FrameType | None) -> None:
    """Signal handler for Ctrl-C where nothing is to be saved: exit at once."""
    # The terminal signals every process; the first of them prints.
    if local_rank() == 0 and multiprocessing.parent_process() is None:
        os.write(2, b'interrupted\n')
    os._exit(128 + signum)


def _is_first_to_fail() -> bool:
    """Whether this process is the one that prints the error.

    Once the processes have joined, it is the one that fails first: the error may be of that
    process alone, and the others fail because they lose the connection to it. Before that, all
    processes of a machine fail in the same way, and the one of local rank 0 prints.
    """
    if not torch.distributed.is_initialized():
        try:
            return local_rank() == 0
        except UserError:
            return True  # it is this that failed
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        return store.add('poslabel_mm_failures', 1) == 1
    except RuntimeError:
        return True  # the store has ended: print twice rather than never


def _line_of(error: BaseException, work_dir: WorkDir) -> str | None:
    """The line to print for an error, or None if its traceback is to be printed."""
    text = str(error)
    if isinstance(error, UserError):
        if text.startswith(f'Caught {type(error).__name__} in '):
            # torch passes an error of a loader's worker on with its traceback as the text.
            name = f'\n{type(error).__module__}.{type(error).__qualname__}: '
            text = text.rpartition(name)[2]
        else:
            text = build_error_line(error) or text
        return ' '.join(line.strip() for line in text.splitlines())
    if isinstance(error, SyntaxError) and error.filename == '<unknown>':
        # MMEngine parses configs as text, without the file name.
        return f'a `_base_` of the config, line {error.lineno}: {error.msg}'
    if isinstance(error, FileNotFoundError) and '.py' in text:
        return text  # a `_base_` that does not exist
    if isinstance(error, AssertionError) and 'number of subfolders' in text:
        return text  # CustomDataset: more or fewer classes than the config's
    if isinstance(error, RuntimeError) and 'EADDRINUSE' in text:
        port = os.environ.get('MASTER_PORT')
        return f'MASTER_PORT={port} is taken, as by another job on this machine: set another PORT'
    reason = work_dir.reason(error)
    if reason is not None:
        return reason
    if 'gloo/transport' in text or 'Connection closed by peer' in text:
        return 'another process ended; its own message is above'
    return shared_memory_line(error) or build_error_line(error)
