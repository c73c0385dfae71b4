"""Checks of runs before anything is made."""

import importlib.util
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope

from poslabel_mm.errors import UserError
from poslabel_mm.experiments.folder_check import check_checkpoint, check_folder
from poslabel_mm.experiments.manifest import FurtherTest
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.settings import configured, import_custom_modules
from poslabel_mm.launch.checks.class_names import LOADERS
from poslabel_mm.launch.checks.options import check_num_classes
from poslabel_mm.launch.vis_backends import check_backends

PIXELS = ('pipeline', 'short_side')  # of a dataset, and nothing of its files


def problems_of(runs: Iterable[Run]) -> dict[Run, str]:
    """The runs that cannot be done, each with the reason. The others can be done without them.

    Raises:
        UserError: If options do not fit a config, its own or those of a further test.
    """
    runs = list(runs)
    problems: dict[Run, str] = {}
    reasons: dict[Path, str] = {}  # by the folder: a row's run has further tests
    for run in runs:
        # Options that do not fit the config are an error of the whole command.
        cfg = run.cfg
        if not run.is_done:
            try:
                import_custom_modules(cfg)
            except UserError as error:
                problems[run] = str(error)
    for _, test, cfg, hooks in _further_tests(run for run in runs if run not in problems):
        for key, hook in hooks.items():
            _check_hook(f'test {test.id}: {key}', hook, cfg)
    for run in runs:
        try:
            check_folder(run)
            if not run.is_done:
                check_checkpoint(run)
                _check_timm(run)
                check_backends(run.cfg)
        except UserError as error:
            problems[run] = str(error)
        before = run.pretraining and reasons.get(run.pretraining.folder)
        if before and not run.is_trained and not run.pretraining.is_trained:
            problems[run] = before
        if run in problems:
            reasons[run.folder] = problems[run]
    return problems


def _further_tests(
    runs: Iterable[Run],
) -> Iterator[tuple[Run, FurtherTest, Config, dict[str, dict]]]:
    """The further tests that are to be made, once for all seeds.

    Yields:
        tuple: A run, the test, the config with its options, and the hooks that they change, by
        their keys.
    """
    seen = set()
    for run in runs:
        for test in run.missing_tests():
            key = run.config, run.scale, run.options, run.variant, test
            if not test.id or key in seen:
                continue
            seen.add(key)
            options = [*run.own_options, *test.options]
            cfg = configured(run.config, run.scale, options, run.data, run.data_option)
            before = _hooks(run.cfg)
            hooks = {key: hook for key, hook in _hooks(cfg).items() if hook != before.get(key)}
            yield run, test, cfg, hooks


def _hooks(cfg: Config) -> dict[str, dict]:
    """The hooks of a config by their keys."""
    found = {f'default_hooks.{k}': hook for k, hook in (cfg.get('default_hooks') or {}).items()}
    found |= {f'custom_hooks.{i}': hook for i, hook in enumerate(cfg.get('custom_hooks') or ())}
    return {key: hook for key, hook in found.items() if hook}


def _check_hook(key: str, hook: dict, cfg: Config) -> None:
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    kind = hook.get('type')
    kind = HOOKS.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        raise UserError(f'{key}: there is no hook {hook.get("type")!r}')
    if kind.__module__.startswith('poslabel_mm.'):  # others may need a runner
        try:
            HOOKS.build(hook)
        except (TypeError, UserError) as error:
            raise UserError(f'{key}: {error}') from error


def _check_timm(run: Run) -> None:
    if run.cfg.model.backbone.type.endswith('TIMMBackbone') and (
        importlib.util.find_spec('timm') is None
    ):
        raise UserError('it needs timm: install the extra poslabel_mm[nest], or timm itself')


def check_data_of(runs: Iterable[Run]) -> None:
    """Refuse to begin without the data of every run that is to be trained or tested.

    Those of further tests and of their hooks count too.

    Raises:
        UserError: Naming the config and what its data lack, or an option that does not go with
            their number of classes.
    """
    check_data = data_check()
    runs = list(runs)
    further = list(_further_tests(runs))
    checked = []
    for where, cfg in [
        *((run.config, run.cfg) for run in runs),
        *((f'test {test.id} of {run.config}', cfg) for run, test, cfg, _ in further),
    ]:
        loaders = [(name, cfg[name]) for name in LOADERS if cfg.get(name)]
        check_num_classes(cfg, tuple(name for name, _ in loaders))
        data = [
            (name, {k: v for k, v in loader.dataset.items() if k not in PIXELS})
            for name, loader in loaders
        ]
        if data not in checked:
            checked.append(data)
            try:
                check_data(cfg, tuple(name for name, _ in loaders))
            except UserError as error:
                raise UserError(f'{where}: {error}') from error
    _check_data_of_hooks(further)


def _check_data_of_hooks(further: Iterable[tuple[Run, FurtherTest, Config, dict]]) -> None:
    from poslabel_mm.launch.checks.data import check_dataset

    checked = []
    for _, test, cfg, hooks in further:
        for key, hook in hooks.items():
            for name, dataset in hook.items():
                if name in ('dataset', 'held_out') and dataset and dataset not in checked:
                    checked.append(dataset)
                    try:
                        check_dataset(cfg, f'{key}.{name}', dataset, {})
                    except UserError as error:
                        raise UserError(f'test {test.id}: {error}') from error


def data_check() -> Callable:
    """Import `check_data` without the lines that MMPretrain prints then."""
    with redirect_stdout(io.StringIO()):
        from poslabel_mm.launch.checks.data import check_data
    return check_data
