"""Checks that a run's folder holds files of that run alone, and their removal."""

import os.path as osp
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from poslabel_mm.engine.folder_lock import NAME, lock_folder
from poslabel_mm.engine.hooks.last_saved import last_saved
from poslabel_mm.errors import UserError
from poslabel_mm.experiments import logs
from poslabel_mm.experiments.manifest import FurtherTest
from poslabel_mm.experiments.settings import (
    EXPERIMENT,
    comparable_settings,
    first_difference,
    read_config,
)

# Records of earlier versions lack these settings.
ADDED = {'batch', 'images'}

if TYPE_CHECKING:
    from poslabel_mm.experiments.run import Run


def check_folder(run: 'Run') -> None:
    """Refuse a folder that holds files of another run.

    Raises:
        UserError: If other settings made it, or its test or its
            pre-training is not that of its checkpoint.
    """
    if not run.folder.is_dir():
        return
    if run.record() is not None and not run.is_saved() and run.metrics() is None:
        return  # it ended before there was anything to go on from
    way_out = 'move it away, or choose another --work-dir'
    if run.record() is None and not run.dumped.is_file():
        if any(p.name not in (NAME, 'config') for p in run.folder.iterdir()):
            raise UserError(f'{run.folder} holds files of another origin: {way_out}')
        return
    difference = difference_of(run)
    if difference:
        raise UserError(f'{run.folder} was made with other settings, {difference}: {way_out}')
    _check_order(run, way_out)


def difference_of(run: 'Run') -> str:
    """Say how the settings that a folder's training was made with differ from the run's.

    Returns:
        str: The first difference. Empty without one, without a training, and where the images are
        not there that the settings depend on.
    """
    if run.data is not None and not osp.isdir(run.data):
        return ''
    record = run.record()
    if record is not None:
        found, expected = comparable_settings(record['settings']), run.settings()
        for key in ADDED - set(found):
            expected.pop(key, None)
        difference = first_difference(found, expected)
    elif run.dumped.is_file():
        difference = _difference_from_dumped(run)
    else:
        return ''
    if difference or run.total_batch is None or 'batch' in (record or {}).get('settings', ()):
        return difference
    before = run.batch_so_far()
    if before in (None, run.total_batch):
        return ''
    return f'batch={before} and not {run.total_batch}'


def check_checkpoint(run: 'Run') -> None:
    """Refuse to go on without the checkpoint that is needed next.

    Raises:
        UserError: If a run has ended and its last checkpoint is gone.
    """
    before = run.pretraining if not run.is_trained else run
    if before is not None and before.is_trained and not before.checkpoint.is_file():
        raise UserError(
            f'{before.checkpoint} is gone, with which {run.name} is to go '
            f'on: put it back, or move {before.folder} away'
        )


def clear_folders(runs: Iterable['Run']) -> None:
    """Remove the files of runs, but for those that lock their folders.

    Raises:
        UserError: If a folder holds files of another origin, or another process is at work in
            it; then nothing is removed.
    """
    folders = [run.folder for run in runs if run.folder.is_dir()]
    for folder in folders:
        if not (folder / 'run.json').is_file() and any(p.name != NAME for p in folder.iterdir()):
            raise UserError(f'{folder} holds files of another origin: choose another --work-dir')
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(lock_folder(folder))
        for path in (path for folder in folders for path in folder.iterdir()):
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != NAME:
                    path.unlink()
            except OSError as error:
                raise UserError(f'{path} cannot be removed: {error.strerror}') from error


def _check_order(run: 'Run', way_out: str) -> None:
    if run.pretraining is not None and run.started():
        start = run.pretraining.started()
        if (
            not run.is_trained
            and not run.pretraining.is_trained
            or (start and start[0] > run.started()[0])
        ):
            raise UserError(
                f'{run.folder} was trained from another pre-training than '
                f'{run.pretraining.folder} has now: {way_out}'
            )
    for test in run.tests_with_result():
        _check_test(run, test)


def _check_test(run: 'Run', test: FurtherTest) -> None:
    """Refuse the result of a test that was not of the last checkpoint."""
    folder, result = run.test_folder(test), run.metrics_path(test)
    try:
        tested = Path(read_config(folder / run.dumped.name).load_from).name
    except (OSError, AttributeError):
        tested = 'an unknown checkpoint'
    if tested != run.checkpoint.name or not run.is_trained:
        saved = Path(last_saved(str(run.folder)) or 'none').name
        raise UserError(
            f'{result} is the result of {tested}, but the last '
            f'checkpoint beside it is {saved}: remove that result'
        )
    if logs.started(folder)[-1:] < run.started()[-1:]:
        raise UserError(
            f'{result} is older than the last training in {run.folder}: remove that result'
        )


def _difference_from_dumped(run: 'Run') -> str:
    """Compare the config that a run left which was started by hand, as by a dry run's commands."""
    dumped = read_config(run.dumped).to_dict()
    expected = {k: v for k, v in run.settings().items() if k in EXPERIMENT}
    # Models add their own defaults to what they were given.
    return first_difference(comparable_settings(dumped), expected, only_of_second=True)
