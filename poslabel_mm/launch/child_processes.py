"""Child processes that receive the stop signals of this process."""

import os
import signal
import subprocess
from collections.abc import Mapping
from typing import IO

from poslabel_mm.engine.folder_lock import hand_on
from poslabel_mm.errors import UserError
from poslabel_mm.launch.parent_process import followed


class ChildProcesses:
    """Runs commands that stop when this process receives a stop signal or has died.

    SIGINT and SIGTERM are passed on to every running command, which decides by itself how soon it
    ends. :meth:`run` may be called from threads.

    Args:
        passed_on (int, optional): The signal to send to the commands. Defaults
            to the one that this process received.
        notice (str): Printed at the first signal if a command is running.

    Attributes:
        received (int, optional): The signal that this process received.
    """

    def __init__(self, passed_on: int | None = None, notice: str = '') -> None:
        self.passed_on = passed_on
        self.notice = notice
        self.received: int | None = None
        self._running: set[subprocess.Popen] = set()
        self._previous = {
            signum: signal.signal(signum, self._pass_on)
            for signum in (signal.SIGINT, signal.SIGTERM)
        }

    def run(
        self, words: list[str], env: Mapping[str, str], locks: list[IO], out: IO | None = None
    ) -> int:
        """Run a command to its end.

        Args:
            words (list[str]): The command.
            env (Mapping[str, str]): Added to this process's environment.
            locks (list[IO]): Locks of the folders that the command works in, held until
                it has ended.
            out (IO, optional): The file for its output. Defaults to this process's.

        Returns:
            int: Its exit status, 128 + N if signal N ended it.

        Raises:
            UserError: If it cannot be started.
        """
        if self.received is not None:
            return 128 + self.received
        try:
            process = subprocess.Popen(
                words,
                env={**os.environ, **followed(), **hand_on(locks), **env},
                stdout=out,
                stderr=out and subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=[lock.fileno() for lock in locks],
                start_new_session=True,
            )  # Ctrl-C reaches this process alone
        except OSError as error:
            raise UserError(f'{words[0]} cannot be run: {error.strerror}') from error
        self._running.add(process)
        if self.received is not None:  # between the two lines above
            process.send_signal(self.passed_on or self.received)
        status = process.wait()
        self._running.discard(process)
        return status if status >= 0 else 128 - status

    def restore(self) -> None:
        """Restore the previous signal handlers, once nothing is left to run."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _pass_on(self, signum: int, frame) -> None:
        first, self.received = self.received is None, signum
        running = list(self._running)
        if first and self.notice and running:
            os.write(2, f'\n{self.notice}\n'.encode())  # print may be interrupted in the middle
        for process in running:
            process.send_signal(self.passed_on or signum)
