"""Pre-training, fine-tuning and test of one pair of configs: a chain of two runs."""

import argparse
import os.path as osp
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.engine.unwritable import make_folder
from poslabel_mm.errors import UserError
from poslabel_mm.experiments.arguments import Parser, whole_number
from poslabel_mm.experiments.command import say, say_failures
from poslabel_mm.experiments.launcher import TOOLS, Launcher
from poslabel_mm.experiments.progress import Display
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.work import Work, check_data_of, problems_of
from poslabel_mm.launch.child_processes import ChildProcesses

DESCRIPTION = """From self-supervised pre-training to the accuracy after fine-tuning.

PRETRAINING and FINETUNING are paths or names of shipped configs. The encoder that the first
has trained is handed to the second, whose last checkpoint is tested. Finished runs are
skipped and interrupted ones are resumed: repeat the command."""
BLOCKS = ('layers.', 'blocks.', 'stages.')


def chain_of(
    pretraining: str,
    finetuning: str,
    seed: int,
    work_dir: Path,
    pretraining_options: Sequence[str] = (),
    finetuning_options: Sequence[str] = (),
) -> Run:
    """The fine-tuning of a chain; its pre-training is its ``pretraining``.

    Args:
        pretraining, finetuning (str): Names or paths of the configs.
        seed (int): Of both runs.
        work_dir (Path): The folder of both runs.
        pretraining_options, finetuning_options (Sequence[str]): ``KEY=VALUE`` of each config.

    Raises:
        UserError: If a config cannot be read, options do not fit it, or the encoders differ.
    """
    pretraining, finetuning = (
        osp.abspath(name) if osp.isfile(name) else name for name in (pretraining, finetuning)
    )
    first = Run(pretraining, seed, tuple(pretraining_options), work_dir)
    second = Run(finetuning, seed, tuple(finetuning_options), work_dir, pretraining=first)
    if first.label == second.label:
        raise UserError(f'the two configs are both named {first.label}: rename one')
    if second.cfg.get('test_dataloader') is None:
        raise UserError(f'{finetuning} has no test_dataloader: is it the config of a classifier?')
    check_encoders(first, second)
    return second


def check_encoders(pretraining: Run, finetuning: Run) -> None:
    """Refuse encoders that cannot hand their weights on.

    Raises:
        UserError: Naming the first weights that differ, or what is missing.
    """
    from mmengine.registry import MODELS, init_default_scope

    shapes = []
    for run in pretraining, finetuning:
        init_default_scope(run.cfg.get('default_scope', 'mmpretrain'))
        backbone = run.cfg.model.backbone.copy()
        backbone.pop('init_cfg', None)
        shapes.append(
            {
                name: tuple(weight.shape)
                for name, weight in MODELS.build(backbone).state_dict().items()
            }
        )
    given, taken = shapes
    # The encoding of another resolution is resized when it is loaded.
    common = [name for name in taken if name in given and 'pos_embed' not in name]
    if not common:
        raise UserError(
            f'the encoders of {pretraining.config} and {finetuning.config} have no '
            'weight in common'
        )
    for name in sorted(set(given) ^ set(taken)):
        if name.startswith(BLOCKS):
            owner = pretraining if name in given else finetuning
            raise UserError(f'the encoders differ: only {owner.config} has {name}')
    for name in common:
        if given[name] != taken[name]:
            raise UserError(
                f'the encoders differ: {name} is {given[name]} in '
                f'{pretraining.config} but {taken[name]} in {finetuning.config}'
            )


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = Parser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('pretraining', help='pre-training config')
    parser.add_argument('finetuning', help='fine-tuning config')
    parser.add_argument(
        '--work-dir', type=Path, help="default: work_dirs/ and the fine-tuning config's name"
    )
    parser.add_argument('--seed', type=whole_number(0), default=0, help='default: 0')
    parser.add_argument(
        '--gpus',
        type=whole_number(1),
        default=1,
        metavar='N',
        help='processes, one a GPU (or on the CPU where there is none), each with the batch of '
        'its config',
    )
    for name, example in (
        ('pre-training', 'model.backbone.mask_ratio=0.5'),
        ('fine-tuning', 'train_dataloader.batch_size=64'),
    ):
        option = name.replace('-', '')
        parser.add_argument(
            f'--{option}',
            dest=f'{option}_options',
            nargs='+',
            default=[],
            metavar='KEY=VALUE',
            help=f'options of the {name} config, such as {example}',
        )
    return parser.parse_args(argv)


def main(argv: Sequence[str], prog: str = 'pretrain_finetune.py') -> int:
    """Run the command; see :data:`DESCRIPTION`.

    Returns:
        int: The exit status.

    Raises:
        UserError: For configs, options and folders that cannot be used, before anything is
            trained.
    """
    args = parse_args(argv, prog)
    work_dir = args.work_dir or Path('work_dirs') / Path(args.finetuning).stem
    finetuning = chain_of(
        args.pretraining,
        args.finetuning,
        args.seed,
        work_dir,
        args.pretraining_options,
        args.finetuning_options,
    )
    runs = [finetuning.pretraining, finetuning]
    if finetuning.started() and not finetuning.pretraining.is_trained:
        raise UserError(
            f'{finetuning.folder} was trained from another pre-training than the one '
            'to be done: move it away, or choose another --work-dir'
        )
    problems = problems_of(runs)
    if problems:
        raise UserError(next(iter(problems.values())))
    needed = [run for run in runs if not run.is_done]
    check_data_of(needed)
    launcher = Launcher(TOOLS, args.gpus, shares_batch=False)
    for run in needed:
        launcher.train(run)  # can the batch be shared out?
    for run in runs:
        if run not in needed:
            say(f'{run.name}: done before, in {run.folder}')
    make_folder(work_dir)
    children = ChildProcesses(notice='stopping after the iteration under way ...')
    work = Work(launcher, children, Display(needed), jobs=1)
    failures = work.do_all(needed, lambda: None)
    if children.told is not None:
        return work.say_stopped()
    say_failures(failures)
    for name, value in (finetuning.state().metrics or {}).items():
        say(f'{name}: {value:.2f}' if isinstance(value, float) else f'{name}: {value}')
    return int(bool(failures))
