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
import multiprocessing
import os
import os.path as osp
import runpy
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial, wraps
from types import FrameType, ModuleType
from typing import NoReturn

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import register_backend

from poslabel_mm.engine.cpu import check_launcher, start_gloo
from poslabel_mm.engine.files import AtomicLocalBackend
from poslabel_mm.engine.hooks.stop_signal_hook import stop_status
from poslabel_mm.engine.unwritable import check_writable, make_folder
from poslabel_mm.engine.work_dir import WorkDir
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.checkpoint import (
    check_load_from,
    check_pretrained,
    check_resume,
    check_weights,
)
from poslabel_mm.launch.checks.data import check_data, name_classes
from poslabel_mm.launch.checks.options import check_auto_scale_lr, check_num_classes
from poslabel_mm.launch.checks.resume_options import resume_with_options
from poslabel_mm.launch.checks.schedule import check_schedule
from poslabel_mm.launch.data_option import use_data, with_data_option
from poslabel_mm.launch.parent_process import follow_parent, forked_children_follow
from poslabel_mm.stack.compat import mend_grad_cam
from poslabel_mm.stack.config_prefix import config_path, without_own_scope

RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')


_work_dir = WorkDir()

# mmcv-lite has no compiled operators, and none is used here.
warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformable')


def train_main(argv: Sequence[str], prog: str) -> None:
    """Run :func:`train`. MMPretrain's tool reads its arguments from ``sys.argv``."""
    train()


def test_main(argv: Sequence[str], prog: str) -> None:
    """Run :func:`test`. MMPretrain's tool reads its arguments from ``sys.argv``."""
    test()


def tool_main(argv: Sequence[str], prog: str) -> None:
    """Run :func:`other_tool` with these arguments."""
    if argv[:1] in (['-h'], ['--help']):
        print(
            f'usage: {prog} TOOL [ARGUMENTS]\n\nTOOL is one of\n  ' + '\n  '.join(_stock_tools())
        )
        return
    other_tool(list(argv))


def train() -> None:
    """Run MMPretrain's ``tools/train.py``."""
    _run('train.py', _prepare_training)


def test() -> None:
    """Run MMPretrain's ``tools/test.py``."""
    _run('test.py', _prepare_test)


def other_tool(argv: list[str]) -> None:
    """Run another of MMPretrain's tools on this project's configs and models.

    Args:
        argv (list[str]): The tool's path below MMPretrain's ``tools/``, such
            as ``analysis_tools/get_flops.py``, and its arguments. An argument
            that is the name of a shipped config becomes its path.
    """
    with _Guard(), without_own_scope():
        if not argv:
            raise UserError(
                'usage is mmpretrain_tool.py TOOL [ARGUMENTS], with '
                f'TOOL one of {", ".join(_stock_tools())}'
            )
        path = _stock_tool(argv[0])
        if osp.basename(path) == 'vis_cam.py':
            mend_grad_cam()
        sys.argv = [path] + [_known_config(arg) or arg for arg in argv[1:]]
        # Tools import their neighbours.
        sys.path.insert(0, osp.dirname(path))
        if osp.basename(path) == 'vis_scheduler.py':
            _plot_schedule(_load_module(path))
        else:
            runpy.run_path(path, run_name='__main__')


def _plot_schedule(tool: ModuleType) -> None:
    """Run the stock ``vis_scheduler.py`` on any config, without a GPU too."""
    simulate_train = tool.simulate_train

    def simulate(data_loader, cfg: Config, *args) -> dict:
        if get_device() == 'cpu':
            _use_cpu_amp(cfg)
        return simulate_train(data_loader, cfg, *args)

    tool.simulate_train = simulate
    # Its model of one layer, which layer-wise decay asks for its depth. In the
    # last of all layers the learning rate is the config's.
    tool.SimpleModel.get_layer_depth = lambda self, *args: (0, 1)
    tool.main()


def _run(name: str, prepare: Callable) -> None:
    with _Guard(), without_own_scope():
        follow_parent()
        forked_children_follow()
        # Until training handles it, and all through a test.
        signal.signal(signal.SIGINT, _leave_interrupted)
        # What stock code writes is the old or the new file as well.
        register_backend('local', AtomicLocalBackend, force=True, prefixes='')
        os.environ.setdefault('POSLABEL_MM_RESUME_COMMAND', _resume_command(sys.argv))
        # Where it is missing, the stock tool makes it 0 for every process.
        os.environ.setdefault('LOCAL_RANK', str(_local_rank()))
        tool = _load_module(_stock_tool(name))
        tool.parse_args = _checked_arguments(tool.parse_args)
        tool.merge_args = partial(prepare, tool.merge_args)
        _name_unreadable_images()
        tool.main()


def _prepare_training(stock_merge: Callable, cfg: Config, args: argparse.Namespace) -> Config:
    _check_options(cfg, args)
    if cfg.get('train_dataloader') is None:
        raise UserError(f'{args.config} is no training config: it has no train_dataloader')
    use_data(cfg, args, ('train_dataloader', 'val_dataloader'))
    # The stock tool's default is True, with which a run in a training loop
    # other than MMEngine's draws other augmentations once it is resumed.
    cfg.train_dataloader.setdefault('persistent_workers', False)
    if args.auto_scale_lr and cfg.get('auto_scale_lr') is None:
        cfg.auto_scale_lr = {}  # for the stock tool to enable it
    cfg = stock_merge(cfg, args)
    _fit_loaders(cfg)
    check_auto_scale_lr(cfg)
    check_num_classes(cfg, ('train_dataloader', 'val_dataloader'))
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    name_classes(cfg)
    check_schedule(cfg)
    if get_device() == 'cpu':
        _use_cpu_amp(cfg)
    if _local_rank() == 0:
        # Reads checkpoints and builds the model: once on a machine is enough.
        check_pretrained(cfg)  # read even where it is then overwritten
        if cfg.get('resume'):
            check_resume(cfg)
        else:
            check_load_from(cfg)
    if cfg.get('resume'):
        resume_with_options(cfg)
    _check_processes(cfg)
    if _rank(cfg) == 0:
        _work_dir.claim(cfg.work_dir)
    else:
        _work_dir.use(cfg.work_dir)
    if cfg.launcher != 'none':
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or ()),
            dict(type='poslabel_mm.EqualBatchesHook'),
        ]
    _prepare_processes(cfg)
    return cfg


def _prepare_test(stock_merge: Callable, cfg: Config, args: argparse.Namespace) -> Config:
    _check_options(cfg, args)
    if args.out is not None:
        _check_out(args.out, args.out_item)
    if cfg.get('test_dataloader') is None:
        raise UserError(f'{args.config} cannot be tested: it has no test_dataloader')
    use_data(cfg, args, ('test_dataloader',))
    cfg = stock_merge(cfg, args)
    _fit_loaders(cfg)
    check_data(cfg, ('test_dataloader',), args.checkpoint)
    check_num_classes(cfg, ('test_dataloader',))
    name_classes(cfg)
    if _local_rank() == 0:
        check_weights(args.checkpoint, cfg)
    if get_device() == 'cpu':
        # Built with the Runner, even where it is not used.
        _use_cpu_amp(cfg)
    _check_processes(cfg)
    if _rank(cfg) == 0:
        make_folder(cfg.work_dir)
    _work_dir.use(cfg.work_dir)
    _prepare_processes(cfg)
    return cfg


def _check_out(path: str, item: str | None) -> None:
    """Refuse before the test what could not be written after it."""
    if not osp.isdir(osp.dirname(path) or '.'):
        raise UserError(f'the folder of --out {path} does not exist')
    kinds = ('.json', '.yaml', '.yml', '.pkl', '.pickle')
    if item != 'metrics':
        kinds = ('.pkl', '.pickle')
    if not path.endswith(kinds):
        raise UserError(
            f'--out {path} must end in {" or ".join(kinds)} for --out-item {item or "pred"}'
        )
    if _local_rank() == 0:
        check_writable(path)


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


def _check_processes(cfg: Config) -> None:
    if cfg.launcher == 'pytorch' and get_device() != 'cpu' and (torch.cuda.is_available()):
        asked = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        if asked > torch.cuda.device_count():
            raise UserError(
                f'{asked} processes were asked for, but this '
                f'machine has {torch.cuda.device_count()} GPUs'
            )
    check_launcher(cfg.launcher)


def _prepare_processes(cfg: Config) -> None:
    if cfg.launcher != 'none' and get_device() == 'cpu':
        start_gloo(cfg)


def _rank(cfg: Config) -> int:
    """This process's number among all, before they have joined."""
    return 0 if cfg.launcher == 'none' else int(os.environ[RANKS[cfg.launcher]])


def _local_rank() -> int:
    return next((int(os.environ[name]) for name in LOCAL_RANKS if name in os.environ), 0)


# ---------------------------------------------------------------- arguments


def _checked_arguments(stock_parse: Callable) -> Callable:
    stock_parse = with_data_option(stock_parse)

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
                'spaces: --cfg-options "key=[a,b]"'
            ) from error
        args.config = _find_config(args.config)
        _check_syntax(args.config)
        return args

    return parse_args


def _values_of(option: str, argv: list[str]) -> list[str]:
    values: list[str] = []
    taking = False
    for text in argv:
        if text.startswith('--'):
            taking = text == option
        elif taking:
            values.append(text)
    return values


def _find_config(name: str) -> str:
    if osp.isdir(name) or (
        osp.isfile(name) and not name.endswith(('.py', '.json', '.yaml', '.yml'))
    ):
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
            raise UserError(f'config {path}, line {error.lineno}: {error.msg}') from error


def _known_config(text: str) -> str | None:
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
        raise UserError(f'--cfg-options {text} does not fit {args.config}: {reason}') from error


def _resume_command(argv: list[str]) -> str:
    """This command with ``--resume``, as one would type it.

    Scripts that start this one say what the user typed in the variable
    POSLABEL_MM_COMMAND, the environment variables that they read in front.
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
    """This Python, as one would type it from here."""
    here = osp.join(os.getcwd(), '')
    python = sys.executable
    return python[len(here) :] if python.startswith(here) else python


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
    for folder in (
        osp.join(package[0], '.mim', 'tools'),
        osp.join(osp.dirname(package[0]), 'tools'),
    ):
        if osp.isfile(osp.join(folder, 'train.py')):
            return folder
    raise UserError(
        f'MMPretrain at {package[0]} was installed without its '
        'tools: install its wheel from the package index'
    )


def _stock_tools() -> list[str]:
    folder = _tools_folder()
    return sorted(
        osp.relpath(osp.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
        if name.endswith('.py')
    )


def _stock_tool(name: str) -> str:
    path = osp.join(_tools_folder(), name)
    if not osp.isfile(path):
        raise UserError(f'MMPretrain has no tool {name}; it has {", ".join(_stock_tools())}')
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
    def transform(self, results: dict) -> dict | None:
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
            raise UserError(
                f'cannot read image {path}, {reason or error}: '
                'replace it, or remove it from the data'
            ) from error

    transform.names_the_image = True
    LoadImageFromFile.transform = transform


class _Guard:
    """Turns a mistake into one line and exit status 1, without traceback."""

    def __enter__(self) -> '_Guard':
        self.on_interrupt = signal.getsignal(signal.SIGINT)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self._explain(error)
        finally:
            signal.signal(signal.SIGINT, self.on_interrupt)
            _work_dir.leave()

    def _explain(self, error: BaseException | None) -> None:
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
            self._leave(130, 'interrupted')
        line = _one_line(error)
        if line is not None:
            self._leave(1, f'error: {line}')

    def _leave(self, status: int, line: str | None = None) -> NoReturn:
        if line is not None and _is_first_to_fail():
            print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
        raise SystemExit(status)


def _leave_interrupted(signum: int, frame: FrameType | None) -> None:
    """Leave on Ctrl-C with nothing to be saved, wherever the code may be."""
    # A worker that the terminal told as well has nothing to say.
    if _local_rank() == 0 and multiprocessing.parent_process() is None:
        os.write(2, b'interrupted\n')
    os._exit(128 + signum)


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


def _one_line(error: BaseException) -> str | None:
    """What to tell the user, or None if the traceback should speak."""
    text = str(error)
    if isinstance(error, UserError):
        if text.startswith(f'Caught {type(error).__name__} in '):
            # From a loader's worker, torch passes the traceback on as the text.
            name = f'\n{type(error).__module__}.{type(error).__qualname__}: '
            text = text.rpartition(name)[2]
        return ' '.join(line.strip() for line in text.splitlines())
    if isinstance(error, SyntaxError) and error.filename == '<unknown>':
        # MMEngine reads configs in this way, and does not say which.
        return f'a `_base_` of the config, line {error.lineno}: {error.msg}'
    if isinstance(error, FileNotFoundError) and '.py' in text:
        return text  # a `_base_` that does not exist
    if isinstance(error, AssertionError) and 'number of subfolders' in text:
        return text  # CustomDataset: more or fewer classes than the config's
    reason = _work_dir.reason(error)
    if reason is not None:
        return reason
    if 'gloo/transport' in text or 'Connection closed by peer' in text:
        return 'another process ended; its own message is above'
    return None
