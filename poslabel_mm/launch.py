"""MMPretrain's own command-line tools, with one clear line for each mistake.

A tool of ours loads the stock tool that MMPretrain ships, so that every option
is MMPretrain's own, and adds what a run needs before it starts: checks that
leave the work dir alone, training on several processes without a GPU, bfloat16
for ``--amp`` on a CPU, and workers that start anew each epoch.
"""
import argparse
import ast
import copy
import importlib.util
import os
import os.path as osp
import runpy
import shlex
import sys
import warnings
from functools import partial, wraps
from types import ModuleType
from typing import Callable, List, NoReturn, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device

from .config_prefix import config_path
from .engine.cpu_distributed import start_gloo
from .engine.hooks.stop_signal_hook import stop_status
from .engine.precheck_checkpoint import (check_pretrained, check_resume,
                                         check_weights)
from .engine.precheck_data import check_data
from .engine.precheck_schedule import check_schedule
from .errors import UserError

LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')


# mmcv-lite has no compiled operators, and none is used here.
warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformable')


def train() -> None:
    """Run MMPretrain's ``tools/train.py``."""
    _run('train.py', _prepare_training)


def test() -> None:
    """Run MMPretrain's ``tools/test.py``."""
    _run('test.py', _prepare_test)


def other_tool(argv: List[str]) -> None:
    """Run another of MMPretrain's tools on this project's configs and models.

    Args:
        argv (list[str]): The tool's path below MMPretrain's ``tools/``, such
            as ``analysis_tools/get_flops.py``, and its arguments. An argument
            that is the name of a shipped config becomes its path.
    """
    with _Guard():
        if not argv:
            raise UserError('usage is mmpretrain_tool.py TOOL [ARGUMENTS], with '
                            f'TOOL one of {", ".join(_stock_tools())}')
        path = _stock_tool(argv[0])
        sys.argv = [path] + [_known_config(arg) or arg for arg in argv[1:]]
        # Tools import their neighbours.
        sys.path.insert(0, osp.dirname(path))
        runpy.run_path(path, run_name='__main__')


def _run(name: str, prepare: Callable) -> None:
    with _Guard():
        os.environ.setdefault('POSLABEL_MM_RESUME_COMMAND',
                              _resume_command(sys.argv))
        # Where it is missing, the stock tool makes it 0 for every process.
        os.environ.setdefault('LOCAL_RANK', str(_local_rank()))
        tool = _load_module(_stock_tool(name))
        tool.parse_args = _checked_arguments(tool.parse_args)
        tool.merge_args = partial(prepare, tool.merge_args)
        _name_unreadable_images()
        tool.main()


def _prepare_training(stock_merge: Callable, cfg: Config,
                      args: argparse.Namespace) -> Config:
    _check_options(cfg, args)
    if cfg.get('train_dataloader') is None:
        raise UserError(f'{args.config} is no training config: it has no '
                        'train_dataloader')
    # The stock tool's default is True, with which a run in a training loop
    # other than MMEngine's draws other augmentations once it is resumed.
    cfg.train_dataloader.setdefault('persistent_workers', False)
    cfg = stock_merge(cfg, args)
    _fit_loaders(cfg)
    check_schedule(cfg)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    check_pretrained(cfg)  # read even where it is then overwritten
    if get_device() == 'cpu':
        _use_cpu_amp(cfg)
    if not cfg.get('resume'):
        if cfg.get('load_from'):
            _check_file(cfg.load_from)
    elif _local_rank() == 0:
        # Reads a checkpoint and builds the model: once on a machine is enough.
        check_resume(cfg)
    _prepare_processes(cfg)
    return cfg


def _prepare_test(stock_merge: Callable, cfg: Config,
                  args: argparse.Namespace) -> Config:
    _check_options(cfg, args)
    if args.out is not None and not osp.isdir(osp.dirname(args.out) or '.'):
        raise UserError(f'the folder of --out {args.out} does not exist')
    if cfg.get('test_dataloader') is None:
        raise UserError(f'{args.config} cannot be tested: it has no '
                        'test_dataloader')
    cfg = stock_merge(cfg, args)
    _fit_loaders(cfg)
    check_data(cfg, ('test_dataloader', ))
    if _local_rank() == 0:
        check_weights(args.checkpoint, cfg)
    if get_device() == 'cpu':
        # Built with the Runner, even where it is not used.
        _use_cpu_amp(cfg)
    _prepare_processes(cfg)
    return cfg


def _fit_loaders(cfg: Config) -> None:
    """Take back the stock defaults that do not suit this machine or config."""
    for name in 'train_dataloader', 'val_dataloader', 'test_dataloader':
        loader = cfg.get(name)
        if loader is None:
            continue
        if not loader.get('num_workers'):
            loader.persistent_workers = False  # an error without workers
        if get_device() == 'cpu':
            loader.pin_memory = False  # a warning every epoch


def _use_cpu_amp(cfg: Config) -> None:
    """Let mixed precision be bfloat16 where there is only a CPU."""
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') in ('AmpOptimWrapper', 'mmengine.AmpOptimWrapper'):
        wrapper.type = 'poslabel_mm.CPUAmpOptimWrapper'
        for gpu_option in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(gpu_option, None)


def _prepare_processes(cfg: Config) -> None:
    if cfg.launcher == 'none':
        return
    if get_device() == 'cpu':
        start_gloo(cfg)
    elif cfg.launcher == 'pytorch' and torch.cuda.is_available() and int(
            os.environ['LOCAL_WORLD_SIZE']) > torch.cuda.device_count():
        raise UserError(
            f'{os.environ["LOCAL_WORLD_SIZE"]} processes were asked for, but '
            f'this machine has {torch.cuda.device_count()} GPUs')


def _local_rank() -> int:
    return next(
        (int(os.environ[name]) for name in LOCAL_RANKS if name in os.environ),
        0)


# ---------------------------------------------------------------- arguments


def _checked_arguments(stock_parse: Callable) -> Callable:

    @wraps(stock_parse)
    def parse_args() -> argparse.Namespace:
        try:
            args = stock_parse()
        except (ValueError, AssertionError) as error:
            # DictAction splits at the first `=` and counts brackets.
            options = _values_of('--cfg-options', sys.argv)
            wrong = [text for text in options if '=' not in text]
            raise UserError(
                '--cfg-options takes KEY=VALUE pairs, got '
                f'{" ".join(wrong) or error}; quote a value with brackets or '
                'spaces: --cfg-options "key=[a,b]"') from error
        args.config = _find_config(args.config)
        _check_syntax(args.config)
        return args

    return parse_args


def _values_of(option: str, argv: List[str]) -> List[str]:
    values: List[str] = []
    taking = False
    for text in argv:
        if text.startswith('--'):
            taking = text == option
        elif taking:
            values.append(text)
    return values


def _find_config(name: str) -> str:
    if osp.isdir(name) or (osp.isfile(name)
                           and not name.endswith(('.py', '.json', '.yaml',
                                                  '.yml'))):
        raise UserError(f'{name} is no config: expected a .py file')
    if osp.isfile(name):
        return name
    # Of a path that does not exist the last part may be a shipped name.
    try:
        return config_path(name)
    except UserError as error:
        hint = str(error).partition(': ')[2]
    try:
        config_path(osp.basename(name))
        hint = f'did you mean {osp.basename(name)}?'
    except UserError as error:
        hint = str(error).partition(': ')[2] or hint
    raise UserError(f'config {name} does not exist: {hint}')


def _check_syntax(path: str) -> None:
    if path.endswith('.py'):
        try:
            with open(path, encoding='utf-8') as file:
                ast.parse(file.read())
        except SyntaxError as error:
            raise UserError(f'config {path}, line {error.lineno}: '
                            f'{error.msg}') from error


def _known_config(text: str) -> Optional[str]:
    """Path of a shipped config if the text names one and is no file."""
    if text.startswith('-') or osp.exists(text) or not text.endswith('.py'):
        return None
    try:
        return config_path(text)
    except UserError:
        return None


def _check_options(cfg: Config, args: argparse.Namespace) -> None:
    """Refuse ``--cfg-options`` that the config has no place for."""
    if args.cfg_options is None:
        return
    try:
        copy.deepcopy(cfg).merge_from_dict(args.cfg_options)
    except (KeyError, TypeError, IndexError, AssertionError) as error:
        text = ' '.join(_values_of('--cfg-options', sys.argv))
        reason = error.args[0] if error.args else error
        raise UserError(f'--cfg-options {text} does not fit {args.config}: '
                        f'{reason}') from error


def _check_file(path: str) -> None:
    if '://' not in path and not osp.isfile(osp.expanduser(path)):
        raise UserError(f'checkpoint {path} (load_from) does not exist')


def _resume_command(argv: List[str]) -> str:
    """This command with ``--resume``, as one would type it.

    Scripts that start this one say what the user typed in the variable
    POSLABEL_MM_COMMAND, the environment variables that they read in front.
    """
    typed = os.environ.get('POSLABEL_MM_COMMAND')
    words = shlex.split(typed) if typed else [_python()] + argv
    kept: List[str] = []
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
    """This Python, as one would type it from here."""
    here = osp.join(os.getcwd(), '')
    python = sys.executable
    return python[len(here):] if python.startswith(here) else python


def _quoted(word: str) -> str:
    # A shell takes NAME=VALUE for an assignment only if the name is bare.
    name, equals, value = word.partition('=')
    if equals and name.isidentifier():
        return f'{name}={shlex.quote(value)}'
    return shlex.quote(word)


# -------------------------------------------------------------- stock tools


def _tools_folder() -> str:
    package = importlib.util.find_spec('mmpretrain').submodule_search_locations
    # A checkout installed in place has its tools beside the package.
    for folder in (osp.join(package[0], '.mim', 'tools'),
                   osp.join(osp.dirname(package[0]), 'tools')):
        if osp.isfile(osp.join(folder, 'train.py')):
            return folder
    raise UserError(f'MMPretrain at {package[0]} was installed without its '
                    'tools: install its wheel from the package index')


def _stock_tools() -> List[str]:
    folder = _tools_folder()
    return sorted(
        osp.relpath(osp.join(where, name), folder)
        for where, _, names in os.walk(folder) for name in names
        if name.endswith('.py'))


def _stock_tool(name: str) -> str:
    path = osp.join(_tools_folder(), name)
    if not osp.isfile(path):
        raise UserError(f'MMPretrain has no tool {name}; it has '
                        f'{", ".join(_stock_tools())}')
    return path


def _load_module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location('mmpretrain_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------- errors


def _name_unreadable_images() -> None:
    """Have the stock loader's errors name the image, whatever the decoder."""
    from mmcv.transforms import LoadImageFromFile
    stock = LoadImageFromFile.transform
    if getattr(stock, 'names_the_image', False):
        return

    @wraps(stock)
    def transform(self, results: dict) -> Optional[dict]:
        try:
            return stock(self, results)
        except MemoryError:
            raise
        except Exception as error:
            path = results['img_path']
            # The decoders' own words name neither the file nor the cause.
            reason = getattr(error, 'strerror', None)
            if reason is None and osp.isfile(path):
                reason = f'its {osp.getsize(path)} bytes are no whole image'
            raise UserError(f'cannot read image {path}, {reason or error}: '
                            'replace it, or remove it from the data') from error

    transform.names_the_image = True
    LoadImageFromFile.transform = transform


class _Guard:
    """Turns a mistake into one line and exit status 1, without traceback."""

    def __enter__(self) -> '_Guard':
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is None or isinstance(error, SystemExit):
            return
        if isinstance(error, UserError):
            self._leave(1, f'error: {_one_line(error)}')
        # Loader workers and other processes were told to stop as well: what
        # that broke is no error.
        status = stop_status()
        if status is not None:
            self._leave(status)
        if isinstance(error, KeyboardInterrupt):
            self._leave(130, 'interrupted before training began')
        line = _one_line(error)
        if line is not None:
            self._leave(1, f'error: {line}')

    def _leave(self, status: int, line: Optional[str] = None) -> NoReturn:
        if line is not None and _is_first_to_fail():
            print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
        raise SystemExit(status)


def _is_first_to_fail() -> bool:
    """Is it for this process to say what went wrong?

    Of processes that have joined, that is whoever asks first: a mistake may be
    everybody's or one's own, and it breaks the others' communication. Before
    that all processes of a machine fail in the same way.
    """
    if not torch.distributed.is_initialized():
        return _local_rank() == 0
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        return store.add('poslabel_mm_failures', 1) == 1
    except RuntimeError:
        return True  # who kept the count has ended: better twice than never


def _one_line(error: BaseException) -> Optional[str]:
    """What to tell the user, or None if the traceback should speak."""
    text = str(error)
    if isinstance(error, UserError):
        # From a loader's worker, torch passes the traceback on as the text.
        return ' '.join(text.rpartition('UserError: ')[2].split())
    if isinstance(error, SyntaxError) and error.filename == '<unknown>':
        # MMEngine reads configs in this way, and does not say which.
        return f'a `_base_` of the config, line {error.lineno}: {error.msg}'
    if isinstance(error, FileNotFoundError) and '.py' in text:
        return text  # a `_base_` that does not exist
    if isinstance(error, AssertionError) and 'number of subfolders' in text:
        return text  # CustomDataset: more or fewer classes than the config's
    if 'gloo/transport' in text or 'Connection closed by peer' in text:
        return 'another process ended; its own message is above'
    return None
