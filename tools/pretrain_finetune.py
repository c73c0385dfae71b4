"""From self-supervised pre-training to the accuracy after fine-tuning.

    python tools/pretrain_finetune.py PRETRAINING FINETUNING [--gpus N]
        [--work-dir DIR] [--pretraining KEY=VALUE ...] [--finetuning KEY=VALUE ...]

PRETRAINING and FINETUNING are paths or names of shipped configs. The encoder
that the first has trained is handed to the second, whose last checkpoint is
tested. Every step is one of this project's tools, with its own log. Stop it
and start it again with the same command: it goes on after the last epoch.
"""
import argparse
import json
import os
import os.path as osp
import shlex
import signal
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, TextIO

# Until there is something to be stopped, Ctrl-C needs no traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

ROOT = Path(osp.realpath(__file__)).parent.parent
# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(ROOT))

try:
    from mmengine.config import Config, DictAction

    from poslabel_mm import UserError, config_path
    from poslabel_mm.launch.child_processes import ChildProcesses
    from poslabel_mm.engine.files import write_atomically
    from poslabel_mm.engine.folder_lock import lock_folder
    from poslabel_mm.engine.hooks.last_saved import last_saved
    from poslabel_mm.launch.checks.data import LOADERS, check_data
    from poslabel_mm.launch.checks.options import check_num_classes
except ImportError as error:
    if error.name is not None:
        raise
    sys.exit(f'error: {error}')  # what the MM stack lacks

PREFIX = 'backbone.'
ENCODER = 'model.backbone.init_cfg'


class Step(NamedTuple):
    """A config with options, trained in a folder of its own."""
    name: str
    config: str
    options: List[str]
    folder: Path
    cfg: Config

    @property
    def checkpoint(self) -> Path:
        """Of the last epoch."""
        return self.folder / f'epoch_{self.cfg.train_cfg.max_epochs}.pth'

    @property
    def is_done(self) -> bool:
        saved = last_saved(str(self.folder))
        return (saved is not None and Path(saved).name == self.checkpoint.name
                and self.checkpoint.is_file())

    def with_options(self, *options: str) -> 'Step':
        return self._replace(options=self.options + list(options))


def load(name: str, config: str, options: List[str], folder: Path) -> Step:
    """Read a config before anything is trained.

    Raises:
        UserError: If it cannot be read, or the options do not fit it.
    """
    if not osp.isfile(config):
        config = config_path(config)
    cfg = Config.fromfile(config)
    parsed = argparse.Namespace(options=None)
    try:
        DictAction(['--options'], 'options')(None, parsed, options)
        cfg.merge_from_dict(parsed.options)
        cfg.model.backbone, cfg.train_cfg.max_epochs
    except (AssertionError, AttributeError, KeyError, TypeError,
            ValueError) as error:
        raise UserError(f'{name} cannot be done with {config} '
                        f'{" ".join(options)}: {error}') from error
    check_num_classes(cfg, LOADERS)
    check_data(cfg, LOADERS)
    return Step(name, osp.abspath(config), options, folder, cfg)


def check_pair(pretraining: Step, finetuning: Step) -> None:
    """Refuse encoders that cannot hand their weights on.

    Raises:
        UserError: Naming the first weights that differ, or what is missing.
    """
    from mmengine.registry import MODELS, init_default_scope
    if finetuning.cfg.get('test_dataloader') is None:
        raise UserError(f'{finetuning.config} has no test_dataloader: is it '
                        'the config of a classifier?')
    shapes = []
    for step in pretraining, finetuning:
        init_default_scope(step.cfg.get('default_scope', 'mmpretrain'))
        backbone = step.cfg.model.backbone.copy()
        backbone.pop('init_cfg', None)
        shapes.append({
            name: tuple(weight.shape)
            for name, weight in MODELS.build(backbone).state_dict().items()
        })
    given, taken = shapes
    # Another resolution's encoding is resized when it is loaded.
    common = [name for name in taken if name in given and 'pos_embed' not in name]
    if not common:
        raise UserError(f'the encoders of {pretraining.config} and '
                        f'{finetuning.config} have no weight in common')
    for name in sorted(set(given) ^ set(taken)):
        if name.startswith(('layers.', 'blocks.', 'stages.')):
            owner = pretraining if name in given else finetuning
            raise UserError(f'the encoders differ: only {owner.config} has {name}')
    for name in common:
        if given[name] != taken[name]:
            raise UserError(
                f'the encoders differ: {name} is {given[name]} in '
                f'{pretraining.config} but {taken[name]} in '
                f'{finetuning.config}')


class Process:
    """Runs a tool at a time, and has it stop when this one is told to."""

    def __init__(self, gpus: int, lock: TextIO) -> None:
        self.gpus = gpus
        self.lock = lock
        self.children = ChildProcesses()

    def run(self, tool: str, *arguments: str) -> None:
        """Run it to its end; leaves with its status if that is not 0."""
        command = [str(ROOT / 'tools' / tool), *arguments]
        if self.gpus > 1:
            command = [
                str(ROOT / 'tools' / 'torchrun.py'), str(self.gpus), *command,
                '--launcher', 'pytorch'
            ]
        status = self.children.run(
            [sys.executable, *command],
            dict(POSLABEL_MM_RESUME_COMMAND=shlex.join(['python'] + sys.argv)),
            [self.lock])
        if status or self.children.told is not None:
            sys.exit(status or 128 + self.children.told)


def pretrain_and_finetune(pretraining: Step, finetuning: Step,
                          process: Process, work_dir: Path) -> Dict[str, float]:
    """Do what is not done yet.

    Returns:
        dict[str, float]: The metrics of the fine-tuned model.
    """
    finetuning = finetuning.with_options(
        f'{ENCODER}.type=Pretrained', f'{ENCODER}.prefix={PREFIX}',
        f'{ENCODER}.checkpoint={pretraining.checkpoint}')
    steps = [pretraining, finetuning]
    metrics = work_dir / 'metrics.json'
    if finetuning.folder.exists() and not pretraining.is_done:
        raise UserError(f'{finetuning.folder} was trained from another pre-training than the one '
                        'to be done: remove it, or choose another --work-dir')
    for i, step in enumerate(steps, start=1):
        say(f'{i}/3 {step.name}: {osp.relpath(step.folder)}' +
            (', done before' if step.is_done else ''))
        if not step.is_done:
            arguments = [
                step.config, '--work-dir', str(step.folder), '--resume'
            ]
            if step.options:
                arguments += ['--cfg-options', *step.options]
            metrics.unlink(missing_ok=True)  # of a model that is trained anew
            process.run('train.py', *arguments)
    say(f'3/3 test: {osp.relpath(metrics)}' +
        (', done before' if metrics.is_file() else ''))
    if not metrics.is_file():
        new = work_dir / 'metrics.new.json'
        arguments = [
            finetuning.config, str(finetuning.checkpoint), '--work-dir',
            str(work_dir / 'test'), '--out', str(new), '--out-item', 'metrics'
        ]
        if finetuning.options:
            arguments += ['--cfg-options', *finetuning.options]
        process.run('test.py', *arguments)
        os.replace(new, metrics)
    return json.loads(metrics.read_text())


def say(line: str) -> None:
    print(f'== {line}', flush=True)


def claim(work_dir: Path, steps: List[Step]) -> TextIO:
    """Take a folder for these steps alone.

    Raises:
        UserError: If it is in use, or was begun with other settings.
    """
    lock = lock_folder(work_dir)
    record = work_dir / 'settings.json'
    settings = {step.name: step.cfg.to_dict() for step in steps}
    text = json.dumps(settings, indent=1, default=str)
    if not record.is_file():
        write_atomically(text.encode(), record)
    elif record.read_text() != text:
        raise UserError(f'{work_dir} was begun with other configs or options: '
                        'repeat that command, or choose another --work-dir')
    return lock


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n\n')[0])
    parser.add_argument('pretraining', help='pre-training config')
    parser.add_argument('finetuning', help='fine-tuning config')
    parser.add_argument(
        '--work-dir', type=Path,
        help="default: work_dirs/ and the fine-tuning config's name")
    parser.add_argument(
        '--gpus', type=int, default=1,
        help='processes, one a GPU (or on the CPU where there is none)')
    for name, example in (('pre-training', 'model.backbone.mask_ratio=0.5'),
                          ('fine-tuning', 'train_dataloader.batch_size=64')):
        option = name.replace('-', '')
        parser.add_argument(
            f'--{option}', dest=f'{option}_options', nargs='+', default=[],
            metavar='KEY=VALUE',
            help=f'options of the {name} config, such as {example}')
    args = parser.parse_args()
    if args.gpus < 1:
        parser.error('--gpus must be at least 1')
    return args


def main() -> None:
    args = parse_args()
    work_dir = (args.work_dir or Path('work_dirs') /
                Path(args.finetuning).stem).resolve()
    pretraining = load('pre-training', args.pretraining,
                       args.pretraining_options, work_dir / 'pretraining')
    finetuning = load('fine-tuning', args.finetuning, args.finetuning_options,
                      work_dir / 'finetuning')
    check_pair(pretraining, finetuning)
    lock = claim(work_dir, [pretraining, finetuning])
    metrics = pretrain_and_finetune(pretraining, finetuning,
                                    Process(args.gpus, lock), work_dir)
    for name, value in metrics.items():
        print(f'{name}: {value:.2f}' if isinstance(value, float) else
              f'{name}: {value}')


if __name__ == '__main__':
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {" ".join(str(error).split())}')
