"""What the installed MM stack needs before poslabel_mm can run on it.

One function per cause; each says when it may be removed. :func:`apply` runs
them all, and running them again changes nothing.
"""

import functools
import importlib
import importlib.metadata
import os
import pickle
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from poslabel_mm.stack.stacks import ALTERNATIVES, STACKS

__all__ = [
    'apply',
    'check_stack',
    'mend_torchvision',
    'allow_plain_values',
    'refuse_code_in_checkpoints',
    'mend_grad_cam',
]


def apply() -> None:
    """Apply every cure."""
    mend_torchvision()
    allow_plain_values()
    refuse_code_in_checkpoints()


def check_installed() -> None:
    """Check the stack of this environment.

    Raises:
        ImportError: If the stack is missing, doubled or out of range.
    """
    check_stack(installed_versions())


def installed_versions() -> dict[str, str]:
    """Versions of the stacks' distributions found in this environment."""
    versions = {}
    for stack in STACKS:
        for name in _names(stack):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                pass
    return versions


def _names(stack: str) -> list[str]:
    names = list(STACKS[stack])
    return names + [ALTERNATIVES[n] for n in names if n in ALTERNATIVES]


def check_stack(installed: Mapping[str, str]) -> str:
    """Name the stack in use, or say in one line what to install.

    Neither stack is a hard requirement of the package, because installing one
    beside the other overwrites files. Stays for as long as there are two.

    Args:
        installed (Mapping[str, str]): Version of each distribution present.

    Returns:
        str: A key of :data:`poslabel_mm.stack.stacks.STACKS`.

    Raises:
        ImportError: If neither stack is installed, or both are, or a
            distribution is missing or out of range.
    """
    found = {}
    for stack in STACKS:
        # Not setuptools, which every environment has.
        present = [n for n in _names(stack) if 'mm' in n and n in installed]
        if present:
            found[stack] = present
    if not found:
        raise ImportError(
            f'poslabel_mm needs MMPretrain and found none: {_install_command("onedl")}'
        )
    if len(found) > 1:
        raise ImportError(
            'two MM stacks are installed over each other '
            f'({"; ".join(", ".join(names) for names in found.values())}): '
            f'pip uninstall -y {" ".join(sum(found.values(), []))}, then '
            f'{_install_command("onedl")}'
        )

    # Comes with either stack, so it is there only once one is.
    from packaging.specifiers import SpecifierSet

    (stack,) = found
    for name, versions in STACKS[stack].items():
        if name not in installed and ALTERNATIVES.get(name) in installed:
            name = ALTERNATIVES[name]
        if name not in installed:
            problem = f'{name} is missing'
        elif not SpecifierSet(versions).contains(installed[name], prereleases=True):
            problem = f'{name} {installed[name]} is not {versions}'
        else:
            continue
        raise ImportError(
            f'poslabel_mm cannot use this MM stack, {problem}: {_install_command(stack)}'
        )
    return stack


def _install_command(stack: str) -> str:
    wanted = (f"'{name}{versions}'" for name, versions in STACKS[stack].items())
    return f'pip install {" ".join(wanted)}'


_torchvision_schemas: Any | None = None


def mend_torchvision() -> None:
    """Import torchvision where its compiled operators do not load.

    Cause: torchvision registers meta kernels for ``nms`` and ``qnms`` even if
    its library, built for CUDA, cannot load beside a CPU torch, and fails with
    "operator torchvision::nms does not exist". Their schemas alone are enough;
    the operators themselves stay unavailable, and nothing here calls them.
    Remove when torchvision imports without its library.
    """
    global _torchvision_schemas
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if 'torchvision::nms does not exist' not in str(error):
            raise
        import torch

        # What the failed import left behind would be reused half-made.
        for name in [n for n in sys.modules if n.startswith('torchvision.')]:
            del sys.modules[name]
        # Lives as long as the process: the schemas go when it is deleted.
        _torchvision_schemas = torch.library.Library('torchvision', 'DEF')
        for operator in 'nms', 'qnms':
            _torchvision_schemas.define(
                f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
            )
        import torchvision  # noqa: F401


def _history_buffer_method(owner: type, name: str) -> Any:
    """``getattr`` for the checkpoint loader: HistoryBuffer's methods alone."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError('Unsupported GLOBAL builtins.getattr')
    return getattr(owner, name)


def allow_plain_values() -> None:
    """Let what checkpoints hold beside weights pass torch's safe loader.

    Cause: MMEngine's checkpoints for resuming hold the log as HistoryBuffers,
    numpy arrays, and (``getattr``) the buffers' statistics methods. OpenMMLab's
    MMEngine allows none of them; OneDL's allows all of ``getattr``. MAE's and
    timm's hold their arguments as a Namespace. Remove when all save plain
    data.
    """
    import argparse

    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    allowed = [
        HistoryBuffer,
        (_history_buffer_method, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        slice,
        argparse.Namespace,
    ]
    allowed += {
        type(np.dtype(kind))
        for kind in (bool, np.uint8, np.int32, np.uint32, np.int64, np.float32, np.float64)
    }
    core = np._core if hasattr(np, '_core') else np.core
    for function in core.multiarray._reconstruct, core.multiarray.scalar:
        # Under its names in numpy 1 and 2: files move between the two.
        for module in 'numpy.core.multiarray', 'numpy._core.multiarray':
            allowed.append((function, f'{module}.{function.__name__}'))
    torch.serialization.add_safe_globals(allowed)


def refuse_code_in_checkpoints() -> None:
    """Keep MMEngine's and MMPretrain's loaders from running a pickle's code.

    Cause: ``load_url`` asks torch to trust the file; OneDL's loader does so
    once a file cannot be read safely; some versions of timm, DeepSpeed and
    ColossalAI always do. Neither stack names the file that is damaged. Remove when
    all read weights alone. Files that a user reads with ``torch.load`` are the
    user's own affair, and torch's ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` still
    trusts every file.
    """
    from mmengine._strategy import ColossalAIStrategy, DeepSpeedStrategy
    from mmengine.runner import CheckpointLoader, checkpoint
    from mmengine.utils import dl_utils

    CheckpointLoader.register_scheme('', load_from_local, force=True)
    checkpoint.load_from_local = load_from_local
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = _safe_torch_load
    checkpoint.load_url = dl_utils.load_url = _load_url
    for strategy in ColossalAIStrategy, DeepSpeedStrategy:
        force_weights_only(strategy, 'load_checkpoint')
        force_weights_only(strategy, 'resume')
    try:
        from mmpretrain.registry import MODELS
    except ImportError:
        return
    guard = 'poslabel_mm.stack.timm_guard'
    if MODELS._imported:
        importlib.import_module(guard)
    elif guard not in MODELS._locations:
        MODELS._locations.append(guard)


# MMEngine logs what follows `load_from_` in the name.
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """MMEngine's loader of local files, by :func:`checkpoint_file.read`."""
    from poslabel_mm.stack.checkpoint_file import read

    return read(filename, map_location)


def _safe_torch_load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """OneDL's function of that name, without its second, unsafe try."""
    import torch

    from poslabel_mm.stack.checkpoint_file import read, unreadable

    if isinstance(file, (str, os.PathLike)) and weights_only is None:
        return read(os.fspath(file), map_location)
    try:
        return torch.load(file, map_location, weights_only=weights_only)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise unreadable('that was fetched', error) from error


def _load_url(url: str, *args, **kwargs) -> Any:
    """torch's function of that name, which trusts the file by default."""
    from torch.hub import load_state_dict_from_url

    from poslabel_mm.stack.checkpoint_file import unreadable

    try:
        return load_state_dict_from_url(
            url, *args, **{**kwargs, 'weights_only': not _trusts_all_files()}
        )
    except OSError:
        raise  # of the network or the cache folder
    except Exception as error:
        raise unreadable(url, error) from error


def _trusts_all_files() -> bool:
    return os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '').lower() in (
        '1',
        'y',
        'yes',
        'true',
    )


_forcing = threading.RLock()


def force_weights_only(owner: type, name: str) -> None:
    """Have a method's ``torch.load`` read weights alone, whatever it asks."""
    stock = getattr(owner, name)
    if hasattr(stock, 'forces_weights_only'):
        return
    variable = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'

    @functools.wraps(stock)
    def forced(*args, **kwargs):
        if _trusts_all_files():
            return stock(*args, **kwargs)
        with _forcing:
            before = os.environ.get(variable)
            os.environ[variable] = '1'
            try:
                return stock(*args, **kwargs)
            finally:
                if before is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = before

    forced.forces_weights_only = True
    setattr(owner, name, forced)


def mend_grad_cam() -> None:
    """Have grad-cam's classes take ``use_cuda``, which vis_cam passes.

    grad-cam 1.5 has the device from the model and took the argument away;
    MMPretrain 1.2 passes it. Needed by that tool alone, so :func:`apply`
    leaves it out. Remove it with the openmmlab stack.
    """
    try:
        from pytorch_grad_cam.base_cam import BaseCAM
    except ImportError:
        return  # the tool says what to install
    for kind in BaseCAM.__subclasses__():
        if not hasattr(kind.__init__, 'takes_use_cuda'):
            kind.__init__ = _without_use_cuda(kind.__init__)


def _without_use_cuda(stock: Callable) -> Callable:

    @functools.wraps(stock)
    def init(self, *args, use_cuda: bool = False, **kwargs) -> None:
        stock(self, *args, **kwargs)

    init.takes_use_cuda = True
    return init
