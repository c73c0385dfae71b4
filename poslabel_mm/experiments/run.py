"""One training run in a folder of its own, and what has been done of it."""
import argparse
import copy
import functools
import importlib.metadata
import json
import os.path as osp
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, TextIO, Tuple

from mmengine.config import Config, DictAction

from poslabel_mm.stack.compat import installed_versions
from poslabel_mm.stack.config_prefix import config_path
from poslabel_mm.engine.files import write_atomically
from poslabel_mm.engine.folder_lock import is_locked, lock_folder
from poslabel_mm.engine.hooks.last_saved import last_saved
from poslabel_mm.errors import UserError
from poslabel_mm.experiments.tiny import tiny_config

# What a machine needs, in options and configs, and no result depends on.
MACHINE = ('data_root', 'num_workers', 'persistent_workers', 'pin_memory',
           'prefetch_factor')
# Of a config that a run has left behind, what tells one experiment from another.
EXPERIMENT = ('model', 'data_preprocessor', 'optim_wrapper', 'param_scheduler',
              'train_cfg', 'randomness', 'train_dataloader', 'test_dataloader')
# What the launcher or the chain sets for the machine at hand.
LAUNCHED = ('batch_size', 'accumulative_counts', 'checkpoint', 'loss_scale', 'dtype', 'use_fsdp')
AMP = ('AmpOptimWrapper', 'mmengine.AmpOptimWrapper',
       'poslabel_mm.CPUAmpOptimWrapper')
RECIPE_GPUS = 8
STARTED = re.compile(r'\d{8}_\d{6}')  # a log folder of MMEngine's


class Scale(NamedTuple):
    """The size that everything is trained at.

    Attributes:
        data (str, optional): What the tiny form is trained on; None for the
            paper's own size.
        epochs (int): Of the tiny form.
    """
    data: Optional[str] = None
    epochs: int = 1

    @property
    def folder(self) -> str:
        """Of its runs, below the work dir."""
        if self.data is None:
            return ''
        return f'tiny-{self.data}-{self.epochs}epochs'


class State(NamedTuple):
    """What has been done of a run.

    Attributes:
        epoch (int): The last one that is complete in what was saved.
        epochs (int): As many as there will be; 0 if nothing was saved.
        metrics (dict[str, float], optional): Of the test of the last epoch.
        is_running (bool): Somebody is at work in its folder.
    """
    epoch: int
    epochs: int
    metrics: Optional[Dict[str, float]]
    is_running: bool

    def __str__(self) -> str:
        if self.metrics is not None:
            text = 'tested'
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
        config (str): File name of a shipped config.
        seed (int): Of the weights, the order and the augmentation.
        options (tuple[str, ...]): ``KEY=VALUE``, what sets the run apart from
            others of its config and seed.
        parent (Path): The folder of all runs of this scale.
        scale (Scale): The size.
        sweep (str): ``KEY=VALUE`` of a figure's sweep, or empty.
        pretraining (Run, optional): Whose last checkpoint it starts from.
    """
    config: str
    seed: int
    options: Tuple[str, ...]
    parent: Path
    scale: Scale = Scale()
    sweep: str = ''
    pretraining: Optional['Run'] = None

    @property
    def folder(self) -> Path:
        """Of its checkpoints and logs."""
        return self.parent / self.label / f'seed{self.seed}'

    @property
    def label(self) -> str:
        """The config, and what is swept."""
        key, _, value = self.sweep.partition('=')
        name = Path(self.config).stem
        return f'{name}_{key.rpartition(".")[2]}={value}' if value else name

    @property
    def name(self) -> str:
        return f'{self.label}, seed {self.seed}'

    @property
    def all_options(self) -> List[str]:
        """As for ``--cfg-options``, in training and test."""
        options = [f'randomness.seed={self.seed}']
        options += [self.sweep] if self.sweep else []
        if self.pretraining is not None:
            checkpoint = osp.relpath(self.pretraining.checkpoint)
            options.append(f'model.backbone.init_cfg.checkpoint={checkpoint}')
        plain = _plain(self.config, self.scale)
        return options + [o for o in self.options if not _is_of_no_loader(o, plain)]

    @property
    def config_path(self) -> Path:
        """What is trained: the shipped config, or its tiny form to be written."""
        if self.scale.data is None:
            return Path(osp.relpath(config_path(self.config)))
        return self.folder / 'config' / self.config

    @property
    def config_text(self) -> Optional[str]:
        """Of the tiny form; None at the paper's size."""
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
    def recipe_batch(self) -> int:
        """Images an optimizer step, on all GPUs together, whatever the options."""
        plain = _plain(self.config, self.scale)
        own = plain.train_dataloader.batch_size * RECIPE_GPUS
        return (plain.get('auto_scale_lr') or {}).get('base_batch_size', own)

    @property
    def accumulation(self) -> int:
        """Iterations an optimizer step, by the config and its options."""
        return self.cfg.optim_wrapper.get('accumulative_counts', 1)

    def accumulation_so_far(self) -> Optional[int]:
        """That of the training to be gone on with; None if there is none."""
        dumped = self.folder / self.config
        if self.is_trained or not self._is_saved() or not dumped.is_file():
            return None
        return Config.fromfile(dumped).optim_wrapper.get('accumulative_counts', 1)

    @property
    def checkpoint(self) -> Path:
        """Of the last epoch."""
        return self.folder / f'epoch_{self.cfg.train_cfg.max_epochs}.pth'

    @property
    def metrics_path(self) -> Path:
        return self.folder / 'metrics.json'

    @property
    def is_tested(self) -> bool:
        """Whether it is a run that a test belongs to."""
        return self.cfg.get('test_dataloader') is not None

    @property
    def is_trained(self) -> bool:
        return self._last_epoch() == self.cfg.train_cfg.max_epochs

    @property
    def is_done(self) -> bool:
        return self.is_trained and (
            not self.is_tested or self._metrics() is not None)

    def _is_saved(self) -> bool:
        return last_saved(str(self.folder)) is not None

    def _last_epoch(self) -> int:
        """The last one that is complete in what was saved."""
        saved = last_saved(str(self.folder)) or ''
        number = re.search(r'epoch_(\d+)(_iter_\d+)?\.pth$', saved)
        if number is None:
            return 0
        # epoch_3_iter_20.pth is of the third one, in which it was stopped.
        return int(number[1]) - bool(number[2])

    def _metrics(self) -> Optional[Dict[str, float]]:
        try:
            return json.loads(self.metrics_path.read_text())
        except (OSError, ValueError):
            return None  # not there, or cut off

    def state(self) -> State:
        """Read it from the folder; nothing is changed."""
        epoch = self._last_epoch()
        epochs = self.cfg.train_cfg.max_epochs if self._is_saved() else 0
        metrics = self._metrics() if epoch and epoch == epochs else None
        return State(epoch, epochs, metrics, is_locked(self.folder))

    # ------------------------------------------------------------ whose folder

    def check_folder(self) -> None:
        """Make sure that what the folder holds is of this very run.

        Raises:
            UserError: If other settings made it, or its test or its
                pre-training is not that of its checkpoint.
        """
        if not self.folder.is_dir():
            return
        if self._record() is not None and not self._is_saved() and self._metrics() is None:
            return  # it ended before there was anything to go on from
        way_out = 'move it away, or choose another --work-dir'
        record = self._record()
        if record is not None:
            difference = first_difference(record['settings'], self.settings())
        elif (self.folder / self.config).is_file():
            difference = self._difference_from_dumped(self.folder / self.config)
        elif any(p.name not in ('lock', 'config') for p in self.folder.iterdir()):
            raise UserError(f'{self.folder} holds files of another origin: {way_out}')
        else:
            return
        if difference:
            raise UserError(f'{self.folder} was made with other settings, '
                            f'{difference}: {way_out}')
        self._check_order(way_out)

    def check_checkpoint(self) -> None:
        """Make sure that the checkpoint that is needed next is still there.

        Raises:
            UserError: If a run has ended and its last checkpoint is gone.
        """
        before = self.pretraining if not self.is_trained else self
        if before is not None and before.is_trained and not before.checkpoint.is_file():
            raise UserError(f'{before.checkpoint} is gone, with which {self.name} is to go '
                            f'on: put it back, or move {before.folder} away')

    def _check_order(self, way_out: str) -> None:
        if self.pretraining is not None and self._begun():
            start = self.pretraining._begun()
            if not self.is_trained and not self.pretraining.is_trained or (
                    start and start[0] > self._begun()[0]):
                raise UserError(
                    f'{self.folder} was trained from another pre-training than '
                    f'{self.pretraining.folder} has now: {way_out}')
        if self._metrics() is None:
            return
        test = self.folder / 'test'
        try:
            tested = Path(Config.fromfile(test / self.config).load_from).name
        except (OSError, AttributeError):
            tested = 'an unknown checkpoint'
        if tested != self.checkpoint.name or not self.is_trained:
            saved = Path(last_saved(str(self.folder)) or 'none').name
            raise UserError(f'{self.metrics_path} is the result of {tested}, but the last '
                            f'checkpoint beside it is {saved}: remove that result')
        if begun(test)[-1:] < self._begun()[-1:]:
            raise UserError(f'{self.metrics_path} is older than the last training in '
                            f'{self.folder}: remove that result')

    def _begun(self) -> List[str]:
        return begun(self.folder)

    def _difference_from_dumped(self, path: Path) -> str:
        """Of a run that was started by hand, with the commands of a dry run."""
        dumped = Config.fromfile(path).to_dict()
        expected = {k: v for k, v in self.settings().items() if k in EXPERIMENT}
        # Models add their own defaults to what they were given.
        return first_difference(normal(dumped), expected, only_of_second=True)

    def settings(self) -> Dict[str, Any]:
        """What makes the run what it is, as it comes back from JSON."""
        return normal(self.cfg.to_dict())

    def _record(self) -> Optional[dict]:
        try:
            return json.loads((self.folder / 'run.json').read_text())
        except (OSError, ValueError):
            return None

    # ----------------------------------------------------------------- working

    def claim(self) -> TextIO:
        """Take the folder for oneself, and write down what it is for.

        Returns:
            TextIO: The lock, to be passed on to who works there.

        Raises:
            UserError: If another process is at work in it, or it cannot be
                written.
        """
        lock = lock_folder(self.folder)
        self.check_folder()  # again: another one may just have left it
        needs_timm = 'TIMMBackbone' in self.cfg.model.backbone.type
        record = dict(settings=self.settings(),
                      versions=versions('torch', *['timm'] * needs_timm))
        write_atomically(json.dumps(record, indent=1).encode(), self.folder / 'run.json')
        if self.config_text is not None:
            write_atomically(self.config_text.encode(), self.config_path)
        return lock

    # -------------------------------------------------------------- afterwards

    def entries(self) -> List[Dict[str, float]]:
        """What was logged in training, by iteration; a resumed run repeats some."""
        entries = {}
        for log in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # being written
                if 'epoch' in entry:
                    entries[entry.get('iter', entry.get('step'))] = entry
        return [entry for _, entry in sorted(entries.items())]

    def machine(self) -> Dict[str, str]:
        """Versions and device, as far as run and logs tell."""
        found = dict((self._record() or {}).get('versions', {}))
        for log in sorted(self.folder.glob('*/*.log')):
            text = log.read_text(errors='replace')
            devices = re.findall(r'^ *GPU [\d,]+: (.+)$', text, re.M)
            if devices or 'CUDA available: False' in text:
                found['device'] = ', '.join(devices) or 'CPU'
            world = re.search(r'^ *GPU number: (\d+)$', text, re.M)
            if world:
                found['processes'] = world[1]
        return found


@functools.lru_cache(maxsize=None)
def _plain(config: str, scale: Scale) -> Config:
    if scale.data is None:
        return Config.fromfile(config_path(config))
    return Config.fromstring(tiny_config(config, *scale), '.py')


@functools.lru_cache(maxsize=None)
def _configured(run: Run) -> Config:
    cfg = copy.deepcopy(_plain(run.config, run.scale))
    options = [o for o in run.all_options if '.init_cfg.checkpoint=' not in o]
    parsed = argparse.Namespace(options=None)
    try:
        DictAction(['--options'], 'options')(None, parsed, options)
        cfg.merge_from_dict(parsed.options)
        cfg.train_cfg.max_epochs, cfg.model.backbone.type  # still there?
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError,
            ValueError) as error:
        raise UserError(f'--cfg-options {" ".join(run.options)} does not fit '
                        f'{run.config}: {error}') from error
    return cfg


def _is_of_no_loader(option: str, cfg: Config) -> bool:
    """Does an option of the machine concern a loader that a config lacks?"""
    first, _, key = option.partition('=')[0].partition('.')
    return key.rpartition('.')[2] in MACHINE and cfg.get(first) is None


def begun(folder: Path) -> List[str]:
    """When processes began to work there, by MMEngine's log folders."""
    return sorted(p.name for p in folder.glob('*') if STARTED.fullmatch(p.name))


def versions(*distributions: str) -> Dict[str, str]:
    """Of this package, the MM stack and others, in this environment."""
    from poslabel_mm import __version__
    found = dict(poslabel_mm=__version__, python=platform.python_version())
    for name, version in installed_versions().items():
        if 'mm' in name:
            found[name] = version
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def normal(value: Any) -> Any:
    """As it comes back from JSON, without what belongs to the machine."""
    if isinstance(value, dict):
        return {
            str(k): normal(v)
            for k, v in value.items() if k not in MACHINE + LAUNCHED
        }
    if isinstance(value, (list, tuple)):
        return [normal(v) for v in value]
    if isinstance(value, str) and value in AMP:
        return AMP[0]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def first_difference(found: Any, expected: Any, only_of_second: bool = False,
                     key: str = '') -> str:
    """Say where two settings differ first; empty if they do not.

    Args:
        found, expected: Results of :func:`normal`.
        only_of_second (bool): Pass over what only ``found`` has.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in _keys(found, expected, only_of_second):
            path = f'{key}.{name}' if key else name
            if name not in found:
                return f'without {path}'
            if name not in expected:
                return f'with {path}={found[name]!r}'
            text = first_difference(found[name], expected[name], only_of_second, path)
            if text:
                return text
        return ''
    if isinstance(found, list) and isinstance(expected, list) and (
            len(found) == len(expected)):
        pairs = enumerate(zip(found, expected))
        texts = (first_difference(a, b, only_of_second, f'{key}.{i}') for i, (a, b) in pairs)
        return next(filter(None, texts), '')
    if found == expected:
        return ''
    return f'{key}={found!r} and not {expected!r}'


def _keys(found: dict, expected: dict, only_of_second: bool) -> Iterator[str]:
    yield from expected
    if not only_of_second:
        yield from (name for name in found if name not in expected)
