"""The runs of a chain: pre-training, fine-tuning and test of one pair of configs."""

import argparse
import os.path as osp
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.errors import UserError
from poslabel_mm.experiments.checks import problems_of
from poslabel_mm.experiments.console import print_line
from poslabel_mm.experiments.launcher import TOOLS, Launcher
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.settings import import_custom_modules
from poslabel_mm.experiments.work import run_all

BLOCKS = ('layers.', 'blocks.', 'stages.')


def run(args: argparse.Namespace) -> int:
    """Run the command :mod:`poslabel_mm.experiments.chain` with its parsed arguments."""
    finetuning = chain_of(
        args.pretraining,
        args.finetuning,
        args.seed,
        args.work_dir or Path('work_dirs') / Path(args.finetuning).stem,
        args.pretraining_options,
        args.finetuning_options,
    )
    runs = [finetuning.pretraining, finetuning]
    if finetuning.started() and not finetuning.pretraining.is_trained:
        raise UserError(
            f'{finetuning.folder} was trained from another pre-training than the one '
            'to be done: move it away, or choose another --work-dir'
        )
    for problem in problems_of(runs).values():
        raise UserError(problem)  # half a chain is of no use

    def print_metrics() -> None:
        for name, value in (finetuning.state().metrics or {}).items():
            print_line(f'{name}: {value:.2f}' if isinstance(value, float) else f'{name}: {value}')

    return run_all(runs, Launcher(TOOLS, args.gpus), at_the_end=print_metrics)


def chain_of(
    pretraining: str,
    finetuning: str,
    seed: int,
    work_dir: Path,
    pretraining_options: Sequence[str] = (),
    finetuning_options: Sequence[str] = (),
) -> Run:
    """Make the runs of a chain.

    Args:
        pretraining, finetuning (str): Names or paths of the configs.
        seed (int): The seed of both runs.
        work_dir (Path): The folder of both runs.
        pretraining_options, finetuning_options (Sequence[str]): ``KEY=VALUE`` of each config.

    Returns:
        Run: The fine-tuning, whose ``pretraining`` is the other run.

    Raises:
        UserError: If a config cannot be read, options do not fit it, or the encoders differ.
    """
    pretraining, finetuning = (
        osp.abspath(name) if osp.isfile(name) else name for name in (pretraining, finetuning)
    )
    first = Run(pretraining, seed, tuple(pretraining_options), work_dir, shares_batch=False)
    second = Run(
        finetuning,
        seed,
        tuple(finetuning_options),
        work_dir,
        pretraining=first,
        shares_batch=False,
    )
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
        import_custom_modules(run.cfg)
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
