"""One training run in a folder of its own, and how far it has come."""

import functools
import hashlib
import json
import os.path as osp
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from mmengine.config import Config

from poslabel_mm.datasets.class_folders import class_names, images_by_class
from poslabel_mm.engine.files import write_atomically
from poslabel_mm.engine.folder_lock import is_locked, lock_folder
from poslabel_mm.engine.hooks.last_saved import last_saved
from poslabel_mm.experiments import logs
from poslabel_mm.experiments.folder_check import check_folder
from poslabel_mm.experiments.manifest import FurtherTest
from poslabel_mm.experiments.scale import Scale
from poslabel_mm.experiments.settings import (
    accumulation_of,
    comparable_settings,
    concerns_missing_loader,
    config_file,
    configured,
    images_a_step,
    plain_config,
    read_config,
    versions,
)
from poslabel_mm.experiments.tiny import tiny_config
from poslabel_mm.stack.config_prefix import INSTALLED_BY

HANDED_ON = 'model.backbone.init_cfg'  # the encoder's start, in a config
PLAIN = FurtherTest('', ())  # the test by the config itself
SEED = '{seed}'  # in an option of a row
LONGEST_NAME = 80
PREFIX = 'backbone.'  # of the encoder's weights, in a pre-training's checkpoint


class State(NamedTuple):
    """How far a run has come.

    Attributes:
        epoch (int): The last epoch that is complete in its checkpoints.
        epochs (int): The number of all epochs; 0 without a checkpoint.
        metrics (dict[str, float], optional): The test of the last epoch.
        is_running (bool): Whether a process is at work in its folder.
        missing (tuple[str, ...]): The ids of further tests that have no result yet.
        is_lost (bool): Whether tests are missing and the checkpoint is no longer there.
    """

    epoch: int
    epochs: int
    metrics: dict[str, float] | None
    is_running: bool
    missing: tuple[str, ...] = ()
    is_lost: bool = False

    def __str__(self) -> str:
        if self.metrics is not None:
            text = f'tested, but for {", ".join(self.missing)}' if self.missing else 'tested'
            text += ', and the checkpoint is gone' * self.is_lost
        elif self.epochs and self.epoch == self.epochs:
            text = 'trained'
        elif self.epochs:
            text = f'epoch {self.epoch} of {self.epochs}'
        else:
            text = '' if self.is_running else 'not started'
        return ', '.join(filter(None, ['running' * self.is_running, text]))


@dataclass(frozen=True)
class Run:
    """A config that is trained at a seed, and tested where it can be.

    Attributes:
        config (str): Name of a shipped config, or the path of another.
        seed (int): The seed of weights, order of images and augmentation.
        options (tuple[str, ...]): Options ``KEY=VALUE`` that set the run apart from others of its
            config and seed.
        parent (Path): The folder of all runs of this scale.
        scale (Scale): The size.
        variant (tuple[str, ...]): Options ``KEY=VALUE`` of a table's row or of a point of a
            figure. They are in the name of its folder. ``{seed}`` in them is the run's seed.
        origin (str): What the name of its folder says of its pre-training; mostly empty.
        pretraining (Run, optional): The run whose last checkpoint it starts from.
        data (str, optional): The folder of images in place of its own data, as ``--data``.
        data_option (str): Where the folder was given, for messages. Defaults to '--data'.
        shares_batch (bool): Whether the processes share the config's batch. Otherwise each process
            takes all of it. Defaults to True.
        tests (tuple[FurtherTest, ...]): Further tests of its last checkpoint.
    """

    config: str
    seed: int
    options: tuple[str, ...]
    parent: Path
    scale: Scale = Scale()
    variant: tuple[str, ...] = ()
    origin: str = ''
    pretraining: 'Run | None' = None
    data: str | None = None
    data_option: str = '--data'
    shares_batch: bool = True
    tests: tuple[FurtherTest, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of its checkpoints and logs."""
        return self.parent / self.label / f'seed{self.seed}'

    @property
    def label(self) -> str:
        """The name of the config, of its origin and of its variant."""
        origin = self.origin and f'_from_{self.origin}'
        return Path(self.config).stem + origin + _variant_name(self.variant)

    @property
    def name(self) -> str:
        return f'{self.label}, seed {self.seed}'

    @property
    def own_options(self) -> list[str]:
        """The options ``KEY=VALUE`` of the experiment, without those that hand weights on."""
        variant = (option.replace(SEED, str(self.seed)) for option in self.variant)
        options = [f'randomness.seed={self.seed}', *variant]
        plain = plain_config(self.config, self.scale)
        return options + [o for o in self.options if not concerns_missing_loader(o, plain)]

    @property
    def all_options(self) -> list[str]:
        """The options ``KEY=VALUE`` of ``--cfg-options`` in training and test."""
        seed, *others = self.own_options
        if self.pretraining is None:
            return [seed, *others]
        start = plain_config(self.config, self.scale).model.backbone.get('init_cfg') or {}
        handed_on = dict(type='Pretrained', prefix=PREFIX)
        handed_on = {key: value for key, value in handed_on.items() if start.get(key) != value}
        handed_on['checkpoint'] = osp.relpath(self.pretraining.checkpoint)
        return [seed, *(f'{HANDED_ON}.{key}={value}' for key, value in handed_on.items()), *others]

    @property
    def config_path(self) -> Path:
        """The path of the config that is trained, which for a tiny form is still to be written."""
        if self.scale.data is None:
            return Path(osp.relpath(config_file(self.config)))
        return self.folder / 'config' / self.dumped.name

    @property
    def config_text(self) -> str | None:
        """The text of the tiny form's config; None at the config's own size."""
        if self.scale.data is None:
            return None
        return tiny_config(self.config, *self.scale)

    @property
    def cfg(self) -> Config:
        """The config with its options.

        Raises:
            UserError: If the options do not fit it.
        """
        return _configured(self)

    @property
    def total_batch(self) -> int | None:
        """The number of images of an optimizer step, on all GPUs together.

        It is the config's ``auto_scale_lr.base_batch_size``, or else what the config makes of it
        in a single process. None where the processes do not share the batch.
        """
        if not self.shares_batch:
            return None
        plain = plain_config(self.config, self.scale)
        given = (plain.get('auto_scale_lr') or {}).get('base_batch_size')
        return given or images_a_step(plain)

    @property
    def accumulation(self) -> int:
        """The number of iterations of an optimizer step, by the config and its options."""
        return accumulation_of(self.cfg)

    def accumulation_so_far(self) -> int | None:
        """The number of iterations of an optimizer step in the training that would be resumed.

        None if there is none to resume.
        """
        if self.is_trained or not self.is_saved() or not self.dumped.is_file():
            return None
        return accumulation_of(read_config(self.dumped))

    def batch_so_far(self) -> int | None:
        """The number of images of an optimizer step in the training that the folder holds.

        None if neither its config nor its log tells.
        """
        processes = logs.device(self.folder).get('processes')
        if processes is None or not self.dumped.is_file():
            return None
        return images_a_step(read_config(self.dumped)) * int(processes)

    @property
    def dumped(self) -> Path:
        """The config that a training leaves in its folder."""
        return self.folder / Path(self.config).name

    @property
    def checkpoint(self) -> Path:
        """The path of the last epoch's checkpoint."""
        return self.folder / f'epoch_{self.cfg.train_cfg.max_epochs}.pth'

    def test_folder(self, test: FurtherTest = PLAIN) -> Path:
        """The folder of a test's log and config, with other options another one."""
        if not test.id:
            return self.folder / 'test'
        digest = hashlib.sha256('\n'.join(test.options).encode()).hexdigest()
        return self.folder / f'test_{test.id}-{digest[:8]}'

    def metrics_path(self, test: FurtherTest = PLAIN) -> Path:
        """The file that a test's metrics are written to."""
        return self.test_folder(test) / 'metrics.json' if test.id else self.folder / 'metrics.json'

    def remove_metrics(self) -> None:
        """Remove the results of all tests, which are of an earlier checkpoint."""
        for path in (self.metrics_path(), *self.folder.glob('test_*/metrics.json')):
            path.unlink(missing_ok=True)

    @property
    def is_tested(self) -> bool:
        """Whether the run includes a test."""
        return self.cfg.get('test_dataloader') is not None

    @property
    def is_trained(self) -> bool:
        return self.last_epoch() == self.cfg.train_cfg.max_epochs

    @property
    def is_done(self) -> bool:
        return self.is_trained and not self.missing_tests()

    def tests_with_result(self) -> list[FurtherTest]:
        """The tests that have a result."""
        return [test for test in (PLAIN, *self.tests) if self._result(test) is not None]

    def missing_tests(self) -> list[FurtherTest]:
        """The tests that have no result yet, that of the config first; none of a pre-training."""
        if not self.is_tested:
            return []
        return [test for test in (PLAIN, *self.tests) if self._result(test) is None]

    def is_saved(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return last_saved(str(self.folder)) is not None

    def last_epoch(self) -> int:
        """The last epoch that is complete in what was saved, 0 for none."""
        saved = last_saved(str(self.folder)) or ''
        number = re.search(r'epoch_(\d+)(_iter_\d+)?\.pth$', saved)
        if number is None:
            return 0
        # epoch_3_iter_20.pth is of the third one, in which it was stopped.
        return int(number[1]) - bool(number[2])

    def metrics(self) -> dict[str, float] | None:
        """The result of the test by the config, None without one, and of the further tests.

        A further test's metrics have its id before their names: ``'128px/accuracy/top1'``.
        """
        found = self._result(PLAIN)
        if found is None:
            return None
        for test in self.tests:
            result = self._result(test) or {}
            found |= {f'{test.id}/{name}': value for name, value in result.items()}
        return found

    def _result(self, test: FurtherTest) -> dict[str, float] | None:
        try:
            return json.loads(self.metrics_path(test).read_text())
        except (OSError, ValueError):
            return None  # not there, or cut off

    def state(self) -> State:
        """Read from the folder how far the run has come."""
        epoch = self.last_epoch()
        epochs = self.cfg.train_cfg.max_epochs if self.is_saved() else 0
        metrics = self.metrics() if epoch and epoch == epochs else None
        missing = tuple(test.id for test in self.missing_tests() if test.id) if metrics else ()
        is_lost = bool(missing) and not self.checkpoint.is_file()
        return State(epoch, epochs, metrics, is_locked(self.folder), missing, is_lost)

    def settings(self) -> dict[str, Any]:
        """The settings and the data that the run's result depends on, as JSON returns them."""
        settings = comparable_settings(self.cfg.to_dict())
        if self.total_batch is not None:
            settings['batch'] = self.total_batch
        if self.data is not None:
            settings['classes'] = class_names(osp.join(self.data, 'train'))
            settings['images'] = images_by_class(self.data)
        return settings

    def record(self) -> dict | None:
        """The settings and versions that :meth:`claim` recorded; None without a record."""
        try:
            return json.loads((self.folder / 'run.json').read_text())
        except (OSError, ValueError):
            return None

    def started(self) -> list[str]:
        """The times at which trainings began in the folder, as text, in order."""
        return logs.started(self.folder)

    # ----------------------------------------------------------------- working

    def claim(self) -> TextIO:
        """Lock the folder, and record the run's settings and versions in it.

        Returns:
            TextIO: The lock, to be passed on to the processes that work there.

        Raises:
            UserError: If another process is at work in it, or it cannot be
                written.
        """
        lock = lock_folder(self.folder)
        check_folder(self)  # again: another process may just have left it
        further = ['timm'] if 'TIMMBackbone' in self.cfg.model.backbone.type else []
        further += filter(None, [INSTALLED_BY.get(self.cfg.get('default_scope'))])
        record = dict(settings=self.settings(), versions=versions('torch', *further))
        write_atomically(json.dumps(record, indent=1).encode(), self.folder / 'run.json')
        if self.config_text is not None:
            write_atomically(self.config_text.encode(), self.config_path)
        return lock

    # -------------------------------------------------------------- afterwards

    def entries(self) -> list[dict[str, float]]:
        """The training log, a record for each iteration."""
        return logs.entries(self.folder)

    def machine(self) -> dict[str, str]:
        """Versions and device of the training, as far as its record and its logs name them."""
        return dict((self.record() or {}).get('versions', {})) | logs.device(self.folder)


def folder_name(text: str, options: Sequence[str], tells_all: bool = True) -> str:
    """A name that every folder can have, with a digest of the options unless it tells them all.

    Args:
        text (str): What it says of the options.
        options (Sequence[str]): ``KEY=VALUE``.
        tells_all (bool): Whether the text is only of these options.
    """
    name = re.sub(r'[^\w.=+-]', '_', text)
    if tells_all and name == text and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256('+'.join(options).encode()).hexdigest()[:8]
    return f'{name[:LONGEST_NAME]}-{digest}'


def _variant_name(options: tuple[str, ...]) -> str:
    """The last part of the first option; of several, or of an item of a list, with a digest."""
    if not options:
        return ''
    key, _, value = options[0].partition('=')
    *parents, last = key.split('.')
    is_item = any(part.isdecimal() for part in parents)
    return '_' + folder_name(f'{last}={value}', options, len(options) == 1 and not is_item)


@functools.cache
def _configured(run: Run) -> Config:
    return configured(run.config, run.scale, run.own_options, run.data, run.data_option)
