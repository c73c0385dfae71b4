"""Logging backends by ``--cfg-options``, beside the local one.

The local backend writes the logs that ``poslabel plot``, ``reproduce`` and the quickstart read.
"""

import importlib.util
import re
from typing import Any

from mmengine.config import Config

from poslabel_mm.errors import UserError

KEY = 'visualizer.vis_backends'
OPTION = re.compile(r'visualizer\.vis_backends(\..*)?')
OF_ONE = re.compile(r'visualizer\.vis_backends\.(\d+)\.')


# What MMEngine's backends import once they are used, which is when a run has made its folder.
NEEDED = {
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
    'MLflowVisBackend': 'mlflow',
    'ClearMLVisBackend': 'clearml',
    'NeptuneVisBackend': 'neptune',
    'DVCLiveVisBackend': 'dvclive',
    'AimVisBackend': 'aim',
}


def check_backends(cfg: Config) -> None:
    """Refuse backends whose package is not installed.

    Args:
        cfg (Config): A complete config.

    Raises:
        UserError: With the backend and the command that installs it.
    """
    backends = (cfg.get('visualizer') or {}).get('vis_backends') or ()
    for backend in [backends] if isinstance(backends, dict) else backends:
        kind = _kind(backend)
        package = NEEDED.get(kind)
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(
                f'{kind} needs {package}, which is not installed: pip install {package}, or '
                f'leave it out of {KEY}'
            )


def make_room_for_backends(cfg: Config, options: dict[str, Any] | None) -> None:
    """Let ``visualizer.vis_backends.1.type=NAME`` add a backend to a list of one.

    MMEngine merges options into items that are there, and refuses the index after the last.

    Args:
        cfg (Config): A config before its options are merged; its list may get empty items.
        options (dict, optional): The ``--cfg-options``.
    """
    backends = (cfg.get('visualizer') or {}).get('vis_backends')
    if not isinstance(backends, list):
        return
    asked = {int(match[1]) for match in map(OF_ONE.match, options or ()) if match}
    while len(backends) in asked:
        backends.append({})


def keep_local_backend(cfg: Config, options: dict[str, Any] | None) -> None:
    """Put the local backend back where options have replaced it.

    Args:
        cfg (Config): A config with its options merged.
        options (dict, optional): The ``--cfg-options``.

    Raises:
        UserError: If the options leave no list of backends, each with a type.
    """
    if not any(OPTION.fullmatch(key) for key in options or ()):
        return
    backends = cfg.visualizer.vis_backends
    backends = [backends] if isinstance(backends, dict) else backends
    if not isinstance(backends, (list, tuple)) or not all(
        isinstance(backend, dict) and 'type' in backend for backend in backends
    ):
        raise UserError(
            f'{KEY} must be a list of backends: add one with --cfg-options '
            f'{KEY}.1.type=TensorboardVisBackend'
        )
    if not any(_kind(backend) == 'LocalVisBackend' for backend in backends):
        backends = [dict(type='LocalVisBackend'), *backends]
    cfg.visualizer.vis_backends = list(backends)


def _kind(backend: Any) -> str:
    """The name of a backend's type, without its scope."""
    kind = backend.get('type') if isinstance(backend, dict) else type(backend)
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
