"""Processes that end when the process that started them has died."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

# Environment variable with the process id of the launcher to follow.
FOLLOWED = 'POSLABEL_MM_PARENT'
# Environment variable that torchrun sets in the processes that it starts.
ELASTIC = 'TORCHELASTIC_RUN_ID'
WATCH_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def followed() -> dict[str, str]:
    """The environment variable that makes a child process end with this one."""
    return {FOLLOWED: str(os.getpid())}


def follow_parent(signum: int = signal.SIGTERM) -> None:
    """End this process when the launcher that started it has died.

    Launchers of this project are known by an environment variable that they set, torchrun by its
    own; other launchers are not followed. Processes that torchrun started are killed: without it
    they may not reach each other any more.

    Args:
        signum (int): The signal that other processes receive. Defaults to SIGTERM, at
            which training ends cleanly.
    """
    pid = os.environ.pop(FOLLOWED, None)
    if ELASTIC in os.environ and os.name == 'posix':
        pid, signum = pid or os.getppid(), signal.SIGKILL
    if pid is not None and os.name == 'posix':
        _follow(int(pid), signum)


def forked_children_follow() -> None:
    """Have processes that this one forks, such as a loader's workers, die with it at once.

    By itself a worker looks for its parent only every few seconds. Children that another thread
    than the main one forks are left out: the kernel would end them with the thread.
    """
    global _from_main_thread
    if _from_main_thread is None and hasattr(os, 'register_at_fork'):
        _from_main_thread = True
        os.register_at_fork(before=_note_thread, after_in_child=_follow_after_fork)


_from_main_thread: bool | None = None


def _note_thread() -> None:
    global _from_main_thread
    _from_main_thread = threading.current_thread() is threading.main_thread()


def _follow_after_fork() -> None:
    if _from_main_thread:
        _ask_kernel(signal.SIGKILL)


def _follow(pid: int, signum: int) -> None:
    is_parent = os.getppid() == pid
    # Otherwise a wrapper such as a shell script is in between.
    is_there = _is_parent if is_parent else _is_alive
    if is_parent and _ask_kernel(signum) and is_there(pid):
        return
    if not is_there(pid):
        os.kill(os.getpid(), signum)
    threading.Thread(target=_watch, args=(is_there, pid, signum), daemon=True).start()


def _ask_kernel(signum: int) -> bool:
    """Have Linux send a signal when the parent dies; False elsewhere."""
    if sys.platform != 'linux':
        return False
    return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) == 0


def _is_parent(pid: int) -> bool:
    return os.getppid() == pid


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        with open(f'/proc/{pid}/stat') as file:
            state = file.read().rpartition(')')[2].split()[0]
    except OSError:
        return True  # another system than Linux
    return state not in 'ZX'  # a zombie has ended


def _watch(is_there: Callable[[int], bool], pid: int, signum: int) -> None:
    while is_there(pid):
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signum)
