"""What the installed MM stack needs before poslabel_mm can run on it.

One function per cause; each says when it may be removed. :func:`apply` runs
them all, and running them again changes nothing.
"""
import functools
import importlib.metadata
import os
import os.path as osp
import pickle
import re
import sys
from typing import Any, Callable, Dict, List, Mapping, Optional

from .errors import UserError
from .stacks import ALTERNATIVES, STACKS

__all__ = [
    'apply', 'check_stack', 'refuse_code_in_checkpoints', 'mend_torchvision',
    'allow_history_buffers', 'load_local_checkpoints_safely', 'mend_grad_cam'
]


def apply() -> None:
    """Check the stack, then apply every cure.

    Raises:
        ImportError: If the stack is missing, doubled or out of range.
    """
    check_stack(installed_versions())
    refuse_code_in_checkpoints()
    mend_torchvision()
    allow_history_buffers()
    load_local_checkpoints_safely()


def installed_versions() -> Dict[str, str]:
    """Versions of the stacks' distributions found in this environment."""
    versions = {}
    for stack in STACKS:
        for name in _names(stack):
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                pass
    return versions


def _names(stack: str) -> List[str]:
    names = list(STACKS[stack])
    return names + [ALTERNATIVES[n] for n in names if n in ALTERNATIVES]


def check_stack(installed: Mapping[str, str]) -> str:
    """Name the stack in use, or say in one line what to install.

    Neither stack is a hard requirement of the package, because installing one
    beside the other overwrites files. Stays for as long as there are two.

    Args:
        installed (Mapping[str, str]): Version of each distribution present.

    Returns:
        str: A key of :data:`poslabel_mm.stacks.STACKS`.

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
            'poslabel_mm needs MMPretrain and found none: '
            f'{_install_command("onedl")}')
    if len(found) > 1:
        raise ImportError(
            'two MM stacks are installed over each other '
            f'({"; ".join(", ".join(names) for names in found.values())}): '
            f'pip uninstall -y {" ".join(sum(found.values(), []))}, then '
            f'{_install_command("onedl")}')

    # Comes with either stack, so it is there only once one is.
    from packaging.specifiers import SpecifierSet
    stack, = found
    for name, versions in STACKS[stack].items():
        if name not in installed and ALTERNATIVES.get(name) in installed:
            name = ALTERNATIVES[name]
        if name not in installed:
            problem = f'{name} is missing'
        elif not SpecifierSet(versions).contains(
                installed[name], prereleases=True):
            problem = f'{name} {installed[name]} is not {versions}'
        else:
            continue
        raise ImportError(f'poslabel_mm cannot use this MM stack, {problem}: '
                          f'{_install_command(stack)}')
    return stack


def _install_command(stack: str) -> str:
    wanted = (f"'{name}{versions}'" for name, versions in STACKS[stack].items())
    return f'pip install {" ".join(wanted)}'


def refuse_code_in_checkpoints() -> None:
    """Keep every ``torch.load`` from running code that a pickle carries.

    Cause: OneDL's loader falls back to ``weights_only=False``. Remove when
    MMEngine's loaders never do. A user who trusts a file can still say so with
    torch's own ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1``.
    """
    if 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ:
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'


_torchvision_schemas: Optional[Any] = None


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
                f'{operator}(Tensor dets, Tensor scores, '
                'float iou_threshold) -> Tensor')
        import torchvision  # noqa: F401


def _history_buffer_method(owner: type, name: str) -> Any:
    """``getattr`` for the checkpoint loader: HistoryBuffer's methods alone."""
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current',
                                                  'mean'):
        raise pickle.UnpicklingError('Unsupported GLOBAL builtins.getattr')
    return getattr(owner, name)


def allow_history_buffers() -> None:
    """Let MMEngine's own checkpoints pass torch's weights-only loader.

    Cause: a checkpoint for resuming holds the log as HistoryBuffers, numpy
    arrays, and (``getattr``) the buffers' statistics methods. OpenMMLab's
    MMEngine allows none of them; OneDL's allows all of ``getattr``. Remove
    when MMEngine saves plain data.
    """
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    allowed = [
        HistoryBuffer, (_history_buffer_method, 'builtins.getattr'), np.ndarray,
        np.dtype
    ]
    allowed += {
        type(np.dtype(kind))
        for kind in (bool, np.uint8, np.int32, np.uint32, np.int64, np.float32,
                     np.float64)
    }
    core = np._core if hasattr(np, '_core') else np.core
    for function in core.multiarray._reconstruct, core.multiarray.scalar:
        # Under its names in numpy 1 and 2: files move between the two.
        for module in 'numpy.core.multiarray', 'numpy._core.multiarray':
            allowed.append((function, f'{module}.{function.__name__}'))
    torch.serialization.add_safe_globals(allowed)


def load_local_checkpoints_safely() -> None:
    """Have MMEngine read checkpoint files through :func:`load_from_local`.

    Cause: OneDL's loader answers a file it cannot read safely by reading it
    unsafely, and neither stack's names the file that is damaged. Remove when
    both refuse with the file's name.
    """
    from mmengine.runner import CheckpointLoader
    CheckpointLoader.register_scheme('', load_from_local, force=True)


# MMEngine logs what follows `load_from_` in the name.
def load_from_local(filename: str,
                    map_location: Any = None,
                    mmap: bool = False) -> Any:
    """Load a checkpoint file, without running code that it may carry.

    Args:
        filename (str): Path of the file; ``~`` is expanded.
        map_location: As for :func:`torch.load`.
        mmap (bool): Leave tensors on the disk until they are used, if the file
            is of the format that allows it. Defaults to False.

    Returns:
        Any: What the file holds.

    Raises:
        UserError: If the file does not exist, is damaged or no checkpoint, or
            would run code.
    """
    import torch
    path = osp.expanduser(filename)
    if not osp.isfile(path):
        raise UserError(f'checkpoint {filename} does not exist')
    try:
        with open(path, 'rb') as file:
            mmap = mmap and file.read(4) == b'PK\x03\x04'
        content = torch.load(path, map_location=map_location, mmap=mmap)
    except Exception as error:
        code = re.search(r'GLOBAL (\S+)', str(error))
        if code:
            raise UserError(
                f'checkpoint {filename} refused: it holds {code[1]}, which '
                'could run code; if you trust its source, set '
                'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1') from error
        reason = re.search(r'WeightsUnpickler error: (.+)|(.+)', str(error))
        said = (reason[1] or reason[2]).rstrip('. ') if reason else 'empty'
        raise UserError(f'checkpoint {filename} cannot be read, it is damaged '
                        f'or no checkpoint: {said}') from error
    keep_grids_of_encodings(content)
    return content


def keep_grids_of_encodings(checkpoint: Any) -> None:
    """Have loaded positional encodings themselves tell their patch grid.

    Cause: where MMEngine cuts a prefix off the keys of a state dict (``init_cfg``
    with ``prefix``), it makes a new one, without the metadata that holds the
    grids (:mod:`poslabel_mm.models.backbones.encoding_grid`). Remove when it
    keeps them.

    Args:
        checkpoint (Any): What a file holds; changed in place if it is a
            checkpoint whose encodings tell their grid.
    """
    if not isinstance(checkpoint, dict):
        return
    state_dict = checkpoint.get('state_dict', checkpoint)
    for prefix, metadata in getattr(state_dict, '_metadata', {}).items():
        for name, grid_shape in metadata.get('grid_shapes', {}).items():
            encoding = state_dict.get(f'{prefix}.{name}' if prefix else name)
            if encoding is not None:
                encoding.grid_shape = grid_shape


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
