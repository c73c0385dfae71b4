"""The command ``poslabel``, also ``python -m poslabel_mm``.

Every subcommand is a function ``main(argv, prog) -> exit status`` in a module that is imported
only when the subcommand is called, and that imports the MM stack only when its arguments have been
parsed: help and lists answer at once.
"""

import importlib
import os
import os.path as osp
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from .arguments import Parser
from .errors import UserError, user_error_behind
from .stack import compat
from .stack.config_prefix import list_configs
from .typed_command import VARIABLE, poslabel_as_typed, program_as_typed, python_as_typed
from .version import __version__

CLOSED_PIPE = 141  # 128 + SIGPIPE
# What the line that says how to resume is made of.
RESUME_VARIABLES = (VARIABLE, 'POSLABEL_MM_RESUME_COMMAND')
#: Modules that only a broken environment lacks, and what installs them.
NEEDED = {
    'torch': 'torch',
    'torchvision': 'torchvision',
    'mmengine': 'mmengine',
    'mmcv': 'mmcv',
    'mmpretrain': 'mmpretrain',
    'numpy': 'numpy',
    'packaging': 'packaging',
    'PIL': 'pillow',
    'rich': 'rich',
}


class Subcommand(NamedTuple):
    """A subcommand: its line in ``poslabel --help``, and its function.

    Attributes:
        help (str): The line.
        function (str): ``module:function``.
    """

    help: str
    function: str


SUBCOMMANDS = {
    'quickstart': Subcommand(
        'train a small ViT on handwritten digits: a table and a picture',
        'poslabel_mm.experiments.quickstart:main',
    ),
    'train': Subcommand(
        "train a config, with all options of MMPretrain's tools/train.py",
        'poslabel_mm.launch.stock_arguments:train_main',
    ),
    'test': Subcommand(
        "test a checkpoint, with all options of MMPretrain's tools/test.py",
        'poslabel_mm.launch.stock_arguments:test_main',
    ),
    'tool': Subcommand(
        "run another of MMPretrain's tools, such as analysis_tools/get_flops.py",
        'poslabel_mm.launch.stock_arguments:tool_main',
    ),
    'pretrain-finetune': Subcommand(
        'a chain of two configs: pre-training, fine-tuning, test',
        'poslabel_mm.experiments.chain:main',
    ),
    'look': Subcommand(
        'pictures of what a saved model knows: jigsaw, map of places, features',
        'poslabel_mm.visualization.look:main',
    ),
    'plot': Subcommand(
        'losses, accuracies and position metrics of several runs, from their logs',
        'poslabel_mm.experiments.plot:main',
    ),
    'reproduce': Subcommand(
        "run the rows of the paper's tables, or of a study of your own",
        'poslabel_mm.experiments.command:main',
    ),
    'convert': Subcommand(
        'bring a dataset into the layout that the configs read',
        'poslabel_mm.datasets.command:main',
    ),
    'probe': Subcommand(
        'what the frozen features of a checkpoint tell: k-NN, linear, position, rank',
        'poslabel_mm.launch.probe:main',
    ),
    'export': Subcommand(
        'a checkpoint for MMPretrain, timm, Hugging Face, ONNX or torch.export, without heads',
        'poslabel_mm.interop.export_command:main',
    ),
    'import': Subcommand(
        'weights of timm, MAE, DINOv2, DeiT, Swin or Hugging Face, for a config to start from',
        'poslabel_mm.interop.import_command:main',
    ),
    'list': Subcommand('the shipped configs', 'poslabel_mm.cli_configs:list_main'),
    'config': Subcommand(
        'the path of a shipped config, or a copy of it to edit',
        'poslabel_mm.cli_configs:config_main',
    ),
    'doctor': Subcommand(
        'what is installed, what is wrong with it, and the command that mends it',
        'poslabel_mm.doctor:main',
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv (Sequence[str], optional): The subcommand and its arguments. Defaults to the
            process's.

    Returns:
        int: The exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    def call() -> int:
        subcommand = _parse(argv)
        if subcommand is None:
            return 0
        name, *arguments = argv
        with _as_typed(name, arguments):
            return _call(subcommand.function, arguments)

    return _guarded(call)


@contextmanager
def _as_typed(name: str, arguments: list[str]) -> Iterator[None]:
    """A context in which ``sys.argv`` and the line that says how to resume are a subcommand's.

    MMPretrain's tools read their arguments from ``sys.argv``. Afterwards all is as it was.
    """
    argv, environment = sys.argv, {key: os.environ.get(key) for key in RESUME_VARIABLES}
    typed = _typed_words(name, arguments)
    sys.argv = [' '.join(typed), *arguments]
    if typed == [argv[0]]:
        sys.argv = argv  # and a shell script may have said what the user typed
    else:
        os.environ[VARIABLE] = shlex.join([*typed, *arguments])
    try:
        yield
    finally:
        sys.argv = argv
        for key, value in environment.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def run_script(function: str) -> int:
    """Run a script of ``tools/`` that is no subcommand.

    Args:
        function (str): ``module:function``; it gets the process's arguments.

    Returns:
        int: The exit status.
    """
    return _guarded(lambda: _call(function, sys.argv[1:]))


def _call(function: str, arguments: Sequence[str]) -> int:
    module, _, name = function.partition(':')
    prog = osp.basename(sys.argv[0])
    return getattr(importlib.import_module(module), name)(arguments, prog) or 0


def _guarded(call: Callable[[], int]) -> int:
    """Return the exit status of a call. Print a user's error in one line."""
    # Until there is something to be stopped, Ctrl-C needs no traceback.
    previous = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        status = call()
    except UserError as error:
        status = _fail(' '.join(line.strip() for line in str(error).splitlines()))
    except ImportError as error:
        behind = user_error_behind(error)
        line = _missing(error) if behind is error else str(behind)
        if line is None:
            raise
        status = _fail(line)
    except BrokenPipeError:
        status = CLOSED_PIPE
    finally:
        is_closed = not _flushed()
        signal.signal(signal.SIGINT, previous)
    return status or CLOSED_PIPE * is_closed


def _flushed() -> bool:
    """Write what is left of standard output; False if its reader has ended, as in `| head`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # For the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _missing(error: ImportError) -> str | None:
    """Say in one line what the environment lacks; None for an error of another kind."""
    if isinstance(error, compat.StackError):
        return str(error)
    if not isinstance(error, ModuleNotFoundError) or error.name not in NEEDED:
        return None
    try:
        compat.check_installed()
    except compat.StackError as lacking:
        return str(lacking)
    name = NEEDED[error.name]
    return f'{name} is missing: pip install {name}'


def _typed_words(name: str, arguments: list[str]) -> list[str]:
    """The words that the subcommand was typed with, or the path of a script alone.

    Python code that calls :func:`main` with arguments of its own has typed nothing: then it is
    the command that does the same.
    """
    script, *typed = sys.argv
    if script.endswith('.py') and typed == arguments:
        return [script]
    if osp.basename(script) != '__main__.py' and typed == [name, *arguments]:
        return [program_as_typed(osp.basename(script), script), name]
    installed = poslabel_as_typed()
    if typed != [name, *arguments] and installed:
        return [installed, name]
    return [python_as_typed(), '-m', 'poslabel_mm', name]


def _parse(argv: Sequence[str]) -> Subcommand | None:
    """Find the subcommand; None if help or version was printed."""
    parser = Parser(
        'poslabel',
        'Positional labels for vision transformers: a plugin for MMPretrain.',
        usage='%(prog)s COMMAND [ARGUMENTS]',
        epilog='\n'.join(
            [
                'commands:',
                *(f'  {name:<18} {command.help}' for name, command in SUBCOMMANDS.items()),
                '',
                '`poslabel COMMAND --help` lists the arguments of a command.',
            ]
        ),
    )
    parser.add_argument('--version', action='version', version=f'poslabel_mm {__version__}')
    if argv and argv[0] in SUBCOMMANDS:
        return SUBCOMMANDS[argv[0]]
    if argv and not argv[0].startswith('-'):
        import difflib

        close = difflib.get_close_matches(argv[0], SUBCOMMANDS, n=1)
        hint = f'did you mean {close[0]}?' if close else f'choose from {", ".join(SUBCOMMANDS)}'
        if f'{argv[0].removesuffix(".py")}.py' in list_configs():
            hint = f'the path of that config is printed by `poslabel config {argv[0]}`'
        raise UserError(f'there is no command {argv[0]!r}: {hint}')
    parser.parse_args(argv)
    parser.print_help()
    return None


def _fail(line: str) -> int:
    print(f'error: {line}', file=sys.stderr, flush=True)
    return 1


if __name__ == '__main__':
    sys.exit(main())
