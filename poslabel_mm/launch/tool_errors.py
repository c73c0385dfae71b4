"""Errors of MMPretrain's smaller tools as one line."""

import argparse
import os.path as osp
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmengine.config import Config

from poslabel_mm.errors import UserError
from poslabel_mm.launch.arguments import parse_options, values_of
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
# The words of a tool's command with which it reads no such loader.
WITHOUT = {
    'analysis_tools/confusion_matrix.py': r'.*\.(pkl|pickle)',
    'visualization/vis_tsne.py': r'--test-cfg(=.*)?',
    'kfold-cross-valid.py': r'--no-validate',
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
    loader = _loader(tool, words)
    config = _config(words)
    if loader is None or config is None:
        return
    if _merged(config, words).get(loader) is None:
        raise UserError(
            f'{config} has no {loader}, whose images {tool} reads: name a config that has one, '
            'such as that of a fine-tuning'
        )


def _loader(tool: str, words: Sequence[str]) -> str | None:
    """The loader that a tool reads with these arguments."""
    if tool in WITHOUT and any(re.fullmatch(WITHOUT[tool], word) for word in words):
        return None
    if tool != 'visualization/browse_dataset.py':
        return READS.get(tool)
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--phase', '-p', default='train')
    try:
        phase = parser.parse_known_args(list(words))[0].phase
    except SystemExit:
        return None  # the tool itself says what is wrong
    return f'{phase}_dataloader' if phase in ('train', 'val', 'test') else None


def _merged(config: str, words: Sequence[str]) -> Config:
    """The config with the ``--cfg-options`` of a tool's arguments."""
    cfg = Config.fromfile(config)
    options = values_of('--cfg-options', words)
    if options:
        cfg.merge_from_dict(parse_options(options))
    return cfg


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
        config, loader = _config(words), _loader(tool, words)
        if config is not None and loader is not None:
            check_data(_merged(config, words), (loader,))
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
