"""Start a tool in several processes of this machine, as torchrun does.

    python tools/torchrun.py PROCESSES SCRIPT [ARGUMENTS]

Unlike torchrun it takes a free port unless PORT is set, divides the CPU cores
among the processes where there is no GPU, gives them ten minutes to save after
a stop signal (TORCH_ELASTIC_SHUTDOWN_TIMEOUT), and adds no report of its own to
a line that a process has printed. NNODES, NODE_RANK, MASTER_ADDR and PORT are read from the
environment, as by MMPretrain's scripts.
"""

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

# First, and here: a fault of the MM stack is then printed once, not by every process.
import mmengine  # noqa: F401
from torch.distributed import DistNetworkError, run
from torch.distributed.elastic.multiprocessing.api import SignalException, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from poslabel_mm.errors import UserError
from poslabel_mm.launch.cpu_threads import bound_cores, threads_per_process
from poslabel_mm.launch.parent_process import follow_parent, followed

# The seconds that torchrun waits for processes after a stop signal. Saving takes longer than its
# default of 30 where the model is large or the disk is slow.
PATIENCE = 'TORCH_ELASTIC_SHUTDOWN_TIMEOUT'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def whole_number(name: str, default: int, least: int, most: int) -> int:
    """A number from the environment; one that is out of range is refused."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f'{name}={text} is no whole number from {least} to {most}')
    return int(text)


def check_port(port: int) -> None:
    """Refuse a port that the processes could not meet at on this machine."""
    try:
        if socket.has_dualstack_ipv6():
            socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True).close()
        else:
            socket.create_server(('', port)).close()
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            return
        raise UserError(
            f'PORT={port} cannot be used ({os.strerror(error.errno)}): choose another one, or '
            'on a single machine leave PORT unset for one that is free'
        ) from error


def killed(rank: int, signum: int) -> str:
    """Describe a process that a signal ended."""
    hint = ', the signal of a machine that is out of memory' * (signum == signal.SIGKILL)
    return f'the process of rank {rank} was killed by {signal.Signals(signum).name}{hint}'


@contextmanager
def warning_passed_on() -> Iterator[None]:
    """Pass SIGUSR1, Slurm's warning, on to the processes, as torchrun does with SIGTERM.

    Without a handler it would end the launcher, and by that the processes.
    """
    if not hasattr(signal, 'SIGUSR1'):
        yield
        return
    previous = signal.signal(signal.SIGUSR1, _pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)


def _pass_on(signum: int, frame: FrameType | None) -> NoReturn:
    raise SignalException(f'received {signum}', signal.Signals(signum))


@contextmanager
def ranks_killed() -> Iterator[list[int]]:
    """Collect the ranks of processes that were killed for not having ended in time."""
    ranks: list[int] = []
    close = SubprocessContext.close

    def close_and_look(context: SubprocessContext, *args, **kwargs) -> None:
        close(context, *args, **kwargs)
        ranks.extend(
            rank
            for rank, handler in context.subprocess_handlers.items()
            if handler.proc.returncode == -signal.SIGKILL
        )

    SubprocessContext.close = close_and_look
    try:
        yield ranks
    finally:
        SubprocessContext.close = close


def main(argv: Sequence[str], prog: str = 'torchrun.py') -> int:
    """Run :func:`launch` with these arguments.

    Raises:
        UserError: Without a number of processes and a script.
    """
    if len(argv) < 2 or not argv[0].isdecimal() or int(argv[0]) < 1:
        raise UserError(f'usage is {prog} PROCESSES SCRIPT [ARGUMENTS], PROCESSES at least 1')
    follow_parent()
    return launch(int(argv[0]), list(argv[1:]))


def launch(processes: int, command: list[str]) -> int:
    """Run a command in several processes, to its end.

    Args:
        processes (int): The number of processes on this machine.
        command (list[str]): A Python script and its arguments.

    Returns:
        int: The exit status of the first process that failed; 128 and the signal's number if a
        signal ended it.

    Raises:
        UserError: For an address or a port where the processes could not meet.
    """
    env = os.environ
    threads = threads_per_process(processes, bound_cores())
    for name in 'OMP_NUM_THREADS', 'MKL_NUM_THREADS':
        env.setdefault(name, str(threads))
    nodes = whole_number('NNODES', 1, 1, 10**6)
    node = whole_number('NODE_RANK', 0, 0, nodes - 1)
    if not env.get('PORT') and nodes > 1:
        raise UserError(
            'PORT is not set; with NNODES > 1 it must be one that '
            'is free on the first machine, the same on all of them'
        )
    port = whole_number('PORT', free_port(), 1, 65535)
    if env.get('PORT') and node == 0:
        check_port(port)
    env.update(followed())
    for name in list(logging.root.manager.loggerDict):
        if name.startswith('torch.distributed.elastic'):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    env.setdefault(PATIENCE, '600')
    try:
        with warning_passed_on(), ranks_killed() as late:
            run.main(
                [
                    f'--nproc-per-node={processes}',
                    f'--nnodes={nodes}',
                    f'--node-rank={node}',
                    f'--master-addr={env.get("MASTER_ADDR") or "127.0.0.1"}',
                    f'--master-port={port}',
                    *command,
                ]
            )
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f'error: {killed(rank, -failure.exitcode)}', file=sys.stderr)
            return 128 - failure.exitcode
        return failure.exitcode
    except DistNetworkError as error:
        # Where another program has taken the port in the meantime, or the
        # first machine does not answer.
        raise UserError(
            f'the processes cannot meet at {env.get("MASTER_ADDR") or "127.0.0.1"}, port {port}: '
            f'{str(error).splitlines()[0]}'
        ) from error
    except SignalException as error:
        if late:
            print(
                f'error: the process of rank {min(late)} had not ended in time after '
                f'{signal.Signals(error.sigval).name} and was killed; what it had not saved is '
                f'lost (allow it more time: {PATIENCE}=SECONDS, now {env[PATIENCE]})',
                file=sys.stderr,
            )
        return 128 + error.sigval
    return 0
