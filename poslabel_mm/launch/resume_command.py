"""The command that resumes a run, printed when the run is interrupted."""

import os
import os.path as osp
import shlex
import sys


def resume_command(argv: list[str]) -> str:
    """The running command with ``--resume``, as the user would type it.

    Scripts that start this process store what the user typed in the environment variable
    POSLABEL_MM_COMMAND, preceded by the variables that they read.

    Args:
        argv (list[str]): The arguments of this process, the script first. They are used where
            POSLABEL_MM_COMMAND is not set.

    Returns:
        str: A line for a shell.
    """
    typed = os.environ.get('POSLABEL_MM_COMMAND')
    words = shlex.split(typed) if typed else [_python()] + argv
    kept: list[str] = []
    skip_value = False
    for word in words:
        if word == '--resume':
            skip_value = True
        elif word.startswith('--resume='):
            skip_value = False
        elif skip_value and not word.startswith('-'):
            skip_value = False
        else:
            skip_value = False
            kept.append(word)
    return ' '.join(map(_quoted, kept + ['--resume']))


def _python() -> str:
    """The path of this Python, relative to the current folder where it lies below it."""
    here = osp.join(os.getcwd(), '')
    python = sys.executable
    return python[len(here) :] if python.startswith(here) else python


def _quoted(word: str) -> str:
    # A shell takes NAME=VALUE for an assignment only if the name is bare.
    name, equals, value = word.partition('=')
    if equals and name.isidentifier():
        return f'{name}={shlex.quote(value)}'
    return shlex.quote(word)
