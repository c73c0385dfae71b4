"""Processes that are told to stop when this one is."""

import os
import signal
import subprocess
from collections.abc import Mapping
from typing import IO

from poslabel_mm.engine.folder_lock import hand_on
from poslabel_mm.errors import UserError
from poslabel_mm.launch.parent_process import followed


class ChildProcesses:
    """Runs commands, and has them stop when this process is told to or is gone.

    SIGINT and SIGTERM are passed on to every command that is under way; how
    soon it ends is its own affair. :meth:`run` may be called from threads.

    Args:
        passed_on (int, optional): The signal that commands are sent. Defaults
            to the one that this process was sent.
        notice (str): Printed at the first signal if a command is under way.

    Attributes:
        told (int, optional): The signal that this process was sent.
    """

    def __init__(self, passed_on: int | None = None, notice: str = '') -> None:
        self.passed_on = passed_on
        self.notice = notice
        self.told: int | None = None
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
            locks (list[IO]): Of folders that the command works in, held until
                it has ended.
            out (IO, optional): Where its output goes. Defaults to this one's.

        Returns:
            int: Its exit status, 128 + N if signal N ended it.

        Raises:
            UserError: If it cannot be started.
        """
        if self.told is not None:
            return 128 + self.told
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
        if self.told is not None:  # between the two lines above
            process.send_signal(self.passed_on or self.told)
        status = process.wait()
        self._running.discard(process)
        return status if status >= 0 else 128 - status

    def restore(self) -> None:
        """Take back the handling of signals, once there is nothing left to be run."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _pass_on(self, signum: int, frame) -> None:
        first, self.told = self.told is None, signum
        running = list(self._running)
        if first and self.notice and running:
            os.write(2, f'\n{self.notice}\n'.encode())  # print may be under way
        for process in running:
            process.send_signal(self.passed_on or signum)
