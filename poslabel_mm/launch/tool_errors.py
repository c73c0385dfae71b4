"""Errors of MMPretrain's smaller tools as one line."""

import os.path as osp
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmengine.config import Config

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.data import check_data

# The loader that a tool reads of its config, and fails without.
READS = {
    'analysis_tools/analyze_results.py': 'test_dataloader',
    'analysis_tools/confusion_matrix.py': 'test_dataloader',
    'visualization/browse_dataset.py': 'train_dataloader',
    'visualization/vis_cam.py': 'test_dataloader',
    'visualization/vis_tsne.py': 'test_dataloader',
    'kfold-cross-valid.py': 'val_dataloader',
}


def check_loader(tool: str, words: Sequence[str]) -> None:
    """Refuse a config without the loader that a tool reads.

    Args:
        tool (str): Its path below MMPretrain's ``tools/``.
        words (Sequence[str]): Its arguments.

    Raises:
        UserError: If the config has no such loader, as one of pre-training has none of test
            images, and no argument brings it.
    """
    loader = READS.get(tool)
    config = _config(words)
    if loader is None or config is None:
        return
    is_given = '--test-cfg' in words or any(word.startswith(f'{loader}') for word in words)
    if not is_given and Config.fromfile(config).get(loader) is None:
        raise UserError(
            f'{config} has no {loader}, whose images {tool} reads: name a config that has one, '
            'such as that of a fine-tuning'
        )


@contextmanager
def one_line(tool: str, path: str, words: Sequence[str]) -> Iterator[None]:
    """A context in which a tool's own refusals and files that are missing are :class:`UserError`.

    Args:
        tool (str): Its path below MMPretrain's ``tools/``.
        path (str): Its file; errors of other code keep their traceback.
        words (Sequence[str]): Its arguments.
    """
    try:
        yield
    except FileNotFoundError as error:
        config, loader = _config(words), READS.get(tool)
        if config is not None and loader is not None:
            check_data(Config.fromfile(config), (loader,))
        if not isinstance(error.filename, str):
            raise
        raise UserError(f'{tool}: {error.filename} does not exist') from error
    except (AssertionError, ImportError, ValueError) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        if not str(error) or not osp.exists(raised_in) or not osp.samefile(raised_in, path):
            raise
        raise UserError(f'{tool}: {error}') from error


def _config(words: Sequence[str]) -> str | None:
    return next((word for word in words if word.endswith('.py') and osp.isfile(word)), None)
