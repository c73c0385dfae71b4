"""Checks of runs before anything is made."""

import importlib.util
import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout

from poslabel_mm.errors import UserError
from poslabel_mm.experiments.folder_check import check_checkpoint, check_folder
from poslabel_mm.experiments.run import Run
from poslabel_mm.launch.checks.class_names import LOADERS
from poslabel_mm.launch.checks.options import check_num_classes
from poslabel_mm.launch.vis_backends import check_backends


def problems_of(runs: Iterable[Run]) -> dict[Run, str]:
    """The runs that cannot be done, each with the reason. The others can be done without them."""
    problems: dict[Run, str] = {}
    for run in runs:
        _ = run.cfg  # options that do not fit the config are an error of the whole command
        try:
            check_folder(run)
            if not run.is_done:
                check_checkpoint(run)
                _check_timm(run)
                check_backends(run.cfg)
        except UserError as error:
            problems[run] = str(error)
        if run.pretraining in problems and not run.is_trained:
            problems[run] = problems[run.pretraining]
    return problems


def _check_timm(run: Run) -> None:
    if run.cfg.model.backbone.type.endswith('TIMMBackbone') and (
        importlib.util.find_spec('timm') is None
    ):
        raise UserError('it needs timm: install the extra poslabel_mm[nest], or timm itself')


def check_data_of(runs: Iterable[Run]) -> None:
    """Refuse to begin without the data of every run that is to be trained or tested.

    Raises:
        UserError: Naming the config and what its data lack, or an option that does not go with
            their number of classes.
    """
    check_data = data_check()
    checked = []
    for run in runs:
        loaders = [(name, run.cfg[name]) for name in LOADERS if run.cfg.get(name)]
        check_num_classes(run.cfg, tuple(name for name, _ in loaders))
        data = [
            (name, {k: v for k, v in loader.dataset.items() if k != 'pipeline'})
            for name, loader in loaders
        ]
        if data not in checked:
            checked.append(data)
            try:
                check_data(run.cfg, tuple(name for name, _ in loaders))
            except UserError as error:
                raise UserError(f'{run.config}: {error}') from error


def data_check() -> Callable:
    """Import `check_data` without the lines that MMPretrain prints then."""
    with redirect_stdout(io.StringIO()):
        from poslabel_mm.launch.checks.data import check_data
    return check_data
