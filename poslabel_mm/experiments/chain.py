"""The command ``pretrain-finetune``: pre-training, fine-tuning and test of a pair of configs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.arguments import Parser
from poslabel_mm.experiments.arguments import add_gpus, whole_number

DESCRIPTION = """From self-supervised pre-training to the accuracy after fine-tuning.

PRETRAINING and FINETUNING are paths or names of shipped configs. The encoder that the first
has trained is handed to the second, whose last checkpoint is tested. Finished runs are
skipped and interrupted ones are resumed: repeat the command."""


def main(argv: Sequence[str], prog: str = 'pretrain_finetune.py') -> int:
    """Run the command; see :data:`DESCRIPTION`.

    Returns:
        int: The exit status.

    Raises:
        UserError: For configs, options and folders that cannot be used, before anything is
            trained.
    """
    args = parse_args(argv, prog)
    from poslabel_mm.experiments import chain_run

    return chain_run.run(args)


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the arguments of ``pretrain-finetune``; arguments and errors as :func:`main`."""
    parser = Parser(prog, DESCRIPTION)
    parser.add_argument('pretraining', help='pre-training config')
    parser.add_argument('finetuning', help='fine-tuning config')
    parser.add_argument(
        '--work-dir', type=Path, help="default: work_dirs/ and the fine-tuning config's name"
    )
    parser.add_argument('--seed', type=whole_number(0), default=0, help='default: 0')
    add_gpus(parser, 'each takes the batch of its config')
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
