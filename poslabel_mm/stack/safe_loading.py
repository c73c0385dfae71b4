"""Loading checkpoints without running code that they may carry.

A checkpoint is a pickle, and a pickle may hold code. torch's safe loader refuses it; here the
stack's loaders are made to use that loader, and that loader to accept what the stack saves.
"""

import functools
import importlib
import os
import pickle
import threading
from typing import Any


def _history_buffer_method(owner: type, name: str) -> Any:
    """``getattr`` for torch's safe loader: HistoryBuffer's methods alone.

    Where sharded tensors may be loaded (:mod:`.fsdp_loading`), also the class in them that tells
    their processes.
    """
    import torch
    from mmengine.logging import HistoryBuffer

    if getattr(owner, '__name__', None) == 'ShardedTensor' and (
        name == 'ProcessGroupState' and owner in torch.serialization.get_safe_globals()
    ):
        return owner.ProcessGroupState
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError('Unsupported GLOBAL builtins.getattr')
    return getattr(owner, name)


def allow_plain_values() -> None:
    """Have torch's safe loader accept the plain values that checkpoints hold beside weights.

    Cause: MMEngine's checkpoints for resuming hold the log as HistoryBuffers,
    numpy arrays, and (``getattr``) the buffers' statistics methods. OpenMMLab's
    MMEngine allows none of them; OneDL's allows all of ``getattr``. MAE's and
    timm's hold their arguments as a Namespace. Remove when all of them save
    plain data.
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
        # Under its names in numpy 1 and 2: a file may be written by one and read by the other.
        for module in 'numpy.core.multiarray', 'numpy._core.multiarray':
            allowed.append((function, f'{module}.{function.__name__}'))
    torch.serialization.add_safe_globals(allowed)


def refuse_code_in_checkpoints() -> None:
    """Keep MMEngine's and MMPretrain's loaders from running a pickle's code.

    Cause: ``load_url`` asks torch to trust the file; OneDL's loader does so
    if a file cannot be read safely; some versions of timm, DeepSpeed and
    ColossalAI always do. Neither stack names a damaged file. Remove when
    all of them read weights alone. A direct call of ``torch.load`` is not
    changed, and torch's ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` still
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
    """Have a method's ``torch.load`` read weights alone, whatever the method asks for.

    Args:
        owner (type): The class; its method is replaced once.
        name (str): The method's name.
    """
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
