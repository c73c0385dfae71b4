"""``poslabel doctor``: what is installed, what is wrong with it, and how to mend it.

The checks that do not import torch come first.
"""

import importlib.metadata
import importlib.util
import os
import os.path as osp
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .arguments import Parser
from .datasets.shared_memory import ENOUGH, MORE, shared_memory
from .datasets.sources import SOURCES
from .stack.compat import StackError, check_installed, installed_versions
from .version import __version__

#: What the distributions of the MM stack hold.
PARTS = ('mmpretrain', 'mmengine', 'mmcv')
#: Distributions that some tools or models need, and what they are needed for.
OPTIONAL = {
    'matplotlib': 'figures',
    'scikit-learn': 'the digits, t-SNE and confusion matrices',
    'grad-cam': "MMPretrain's vis_cam",
    'timm': 'NesT',
}
#: Where PyTorch's own instructions take builds without CUDA from.
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
EXTRAS = {'timm': 'nest'}


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
        text (str): What was found.
        mend (str): The command that mends it, or a sentence where no command does. Empty where
            nothing is wrong.
        is_error (bool): Whether poslabel_mm cannot work in this state.
    """

    text: str
    mend: str = ''
    is_error: bool = False

    def __str__(self) -> str:
        mark = 'error' if self.is_error else 'note ' if self.mend else 'ok   '
        return f'{mark}  {self.text}' + (f'\n       {self.mend}' if self.mend else '')


def find_stack() -> Iterator[Finding]:
    """Find out whether the MM stack is missing, doubled or out of range."""
    versions = installed_versions()
    names = ', '.join(f'{name} {version}' for name, version in versions.items() if 'mm' in name)
    try:
        check_installed()
    except StackError as error:
        problem, _, mend = str(error).rpartition(': ')
        yield Finding(problem, mend.replace(', then ', ' && '), is_error=True)
        return
    yield Finding(f'MM stack: {names}')
    if not _has_operators():
        yield Finding('mmcv is without compiled operators, which nothing here needs')


def _has_operators() -> bool:
    spec = importlib.util.find_spec('mmcv')
    return spec is not None and any(
        Path(folder).glob('_ext*') for folder in spec.submodule_search_locations or ()
    )


def find_torch() -> Iterator[Finding]:
    """Find torch and torchvision, and whether they were built for each other."""
    versions = {}
    for name in 'torch', 'torchvision':
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    is_cpu = any(version.endswith('+cpu') for version in versions.values())
    for name in (name for name in ('torch', 'torchvision') if name not in versions):
        # With the version of the other one pip chooses the one that goes with it.
        kept = [f'{other}=={version.partition("+")[0]}' for other, version in versions.items()]
        index = ' --index-url ' + CPU_INDEX if is_cpu else ''
        mend = f'pip install {" ".join([name, *kept])}{index}'
        yield Finding(f'{name} is missing', mend, is_error=True)
    if len(versions) < 2:
        return
    builds = {name: _cuda_of(name) for name in versions}
    yield Finding(
        ', '.join(
            f'{name} {version} ({"CUDA " + builds[name] if builds[name] else "CPU"})'
            for name, version in versions.items()
        )
    )
    if builds['torchvision'] and not builds['torch']:
        yield Finding(
            'this torchvision was built for CUDA and this torch for the CPU: the compiled '
            'operators of torchvision.ops do not load; poslabel_mm does not need them',
            _reinstall('torchvision', versions['torchvision'], 'cpu'),
        )


def _reinstall(name: str, version: str, build: str = '') -> str:
    """The command that installs a distribution of PyTorch again and touches no other.

    Args:
        name (str): ``'torch'`` or ``'torchvision'``.
        version (str): The installed version, which is kept.
        build (str): ``'cpu'`` for the index of builds without CUDA. By default, as the version
            says after its ``+``.
    """
    version, _, own_build = version.partition('+')
    index = f' --index-url {CPU_INDEX}' if 'cpu' in (build, own_build) else ''
    return f'pip install --force-reinstall --no-deps {name}=={version}{index}'


def _cuda_of(package: str) -> str:
    """The CUDA version that a package was built for, read without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return ''
    path = Path(spec.submodule_search_locations[0]) / 'version.py'
    match = path.is_file() and re.search(
        r"^cuda(?:: [^=]+)? = ['\"]([\d.]+)['\"]", path.read_text('utf-8'), re.MULTILINE
    )
    return match[1] if match else ''


def find_optional() -> Iterator[Finding]:
    """Find the distributions that some tools or models need beside the stack."""
    for name, use in OPTIONAL.items():
        try:
            yield Finding(f'{name} {importlib.metadata.version(name)}: {use}')
        except importlib.metadata.PackageNotFoundError:
            extra = EXTRAS.get(name, 'tools')
            yield Finding(f'{name} is missing: {use}', f"pip install 'poslabel_mm[{extra}]'")


def find_data() -> Iterator[Finding]:
    """Find the folders of images that the configs read, below the current folder."""
    for source in SOURCES:
        if osp.isdir(source.folder):
            yield Finding(f'{source.title} in {source.folder}')
        else:
            advice = f'{source.advice[0].upper()}{source.advice[1:]}.'
            yield Finding(f'{source.title} is not in {source.folder}', advice)


def find_shared_memory() -> Iterator[Finding]:
    """Find out whether loaders' workers have the memory that they pass batches through."""
    size = shared_memory()
    if size is None:
        return
    text = f'shared memory: {size >> 20} MiB in /dev/shm'
    if size < ENOUGH:
        yield Finding(
            f'{text}, little for the workers of data loaders',
            f'Give a container more: {MORE}.',
        )
    else:
        yield Finding(text)


def find_devices() -> Iterator[Finding]:
    """Find the GPUs that torch sees. It takes seconds."""
    try:
        import torch
    except Exception as error:
        yield Finding(
            f'torch cannot be imported: {" ".join(str(error).split())}',
            _torch_again(),
            is_error=True,
        )
        return
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding(
        f'{len(names)} GPUs: {", ".join(names)}'
        if names
        else f'no GPU; {torch.get_num_threads()} CPU threads'
    )
    if not names and torch.version.cuda and osp.exists('/proc/driver/nvidia/version'):
        yield Finding(
            f'there is an NVIDIA driver, and torch, built for CUDA {torch.version.cuda}, sees no '
            'GPU',
            'unset CUDA_VISIBLE_DEVICES'
            if 'CUDA_VISIBLE_DEVICES' in os.environ
            else 'Install a torch that was built for the CUDA version that nvidia-smi prints, or '
            'an older one.',
        )


def _torch_again() -> str:
    try:
        return _reinstall('torch', importlib.metadata.version('torch'))
    except importlib.metadata.PackageNotFoundError:
        return 'pip install torch'


def find_imports() -> Iterator[Finding]:
    """Find out whether the stack can be imported, with what poslabel_mm mends in it."""
    try:
        import mmpretrain

        from . import models  # noqa: F401
    except Exception as error:
        yield Finding(
            f'the stack cannot be imported: {" ".join(str(error).split())}',
            _stack_again(error),
            is_error=True,
        )
        return
    yield Finding(
        f'mmpretrain {mmpretrain.__version__} and the models of poslabel_mm can be imported'
    )


def _stack_again(error: Exception) -> str:
    """The command for a stack that cannot be imported. It keeps the installed versions."""
    pins = [f'{name}=={v}' for name, v in installed_versions().items() if 'mm' in name]
    is_part = str(getattr(error, 'name', None)).partition('.')[0] in PARTS
    if isinstance(error, ModuleNotFoundError) and not is_part:
        return f'pip install {" ".join(pins)}'  # which installs what they lack
    return f'pip install --force-reinstall --no-deps {" ".join(pins)}'


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    find_stack,
    find_torch,
    find_optional,
    find_data,
    find_shared_memory,
    find_devices,
    find_imports,
)


def main(argv: Sequence[str], prog: str = 'poslabel doctor') -> int:
    """Print the report; returns 1 if poslabel_mm cannot work in this environment."""
    Parser(
        prog,
        'What is installed, what is wrong with it, and the command that mends it.\n'
        'Ends with status 1 if poslabel_mm cannot work in this environment.',
    ).parse_args(argv)
    print(
        f'poslabel_mm {__version__}, Python {platform.python_version()}, {sys.executable}',
        flush=True,
    )
    failed = False
    for check in CHECKS:
        if failed and check is find_imports:
            break  # the cause has been printed
        for finding in check():
            print(finding, flush=True)
            failed = failed or finding.is_error
    return int(failed)
