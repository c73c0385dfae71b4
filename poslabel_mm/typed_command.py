"""The command that the user typed, as it can be typed again."""

import os
import os.path as osp
import shlex
import shutil
import sys

#: What scripts that start this process, and the command ``poslabel``, store what was typed in.
VARIABLE = 'POSLABEL_MM_COMMAND'


def program_as_typed(name: str, path: str) -> str:
    """A program as a shell takes it.

    Args:
        name (str): Its name.
        path (str): Its path. A link stays one: the Python of a virtual environment is that link.

    Returns:
        str: The name where a shell finds this very program by it. Otherwise the path, relative to
        the current folder where it lies below it.
    """
    path = osp.abspath(path)
    found = shutil.which(name)
    if found and _place(found) == _place(path):
        return name
    here = osp.join(os.getcwd(), '')
    below = path.removeprefix(here)
    return below if osp.dirname(below) else path


def python_as_typed() -> str:
    """This Python as a shell takes it; see :func:`program_as_typed`."""
    return program_as_typed('python', sys.executable)


def poslabel_as_typed() -> str | None:
    """The command ``poslabel`` of this environment as a shell takes it; None without one."""
    path = shutil.which('poslabel', path=osp.dirname(sys.executable))
    return path and program_as_typed('poslabel', path)


def typed_words(argv: list[str]) -> list[str]:
    """The running command, word by word, preceded by the variables that its scripts read.

    Args:
        argv (list[str]): The arguments of this process, the script first. They are used where
            :data:`VARIABLE` is not set.
    """
    typed = os.environ.get(VARIABLE)
    return shlex.split(typed) if typed else [python_as_typed(), *argv]


def shell_line(words: list[str]) -> str:
    """Words, quoted for a shell."""
    return ' '.join(map(_quoted, words))


def _place(path: str) -> tuple[str, str]:
    """What tells two programs apart: the folder, and the file that the last link leads to."""
    return osp.realpath(osp.dirname(osp.abspath(path))), osp.realpath(path)


def _quoted(word: str) -> str:
    # A shell takes NAME=VALUE for an assignment only if the name is bare.
    name, equals, value = word.partition('=')
    if equals and name.isidentifier():
        return f'{name}={shlex.quote(value)}'
    return shlex.quote(word)
