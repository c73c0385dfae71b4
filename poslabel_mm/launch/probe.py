"""The command ``poslabel probe``: what the frozen features of a saved model tell."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.arguments import Parser
from poslabel_mm.errors import UserError

DESCRIPTION = """Measures the frozen features of a checkpoint, of any model of MMPretrain:
k-nearest neighbours, a linear classifier, position layer by layer, effective rank. Probes that the
config's hooks name keep their settings."""
PROBES = {
    'knn': 'KNNProbeHook',
    'linear': 'LinearProbeHook',
    'position': 'PositionProbeHook',
    'rankme': 'RankMeHook',
}


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the command's arguments.

    Raises:
        UserError: If one is wrong.
    """
    parser = Parser(prog, DESCRIPTION)
    parser.add_argument('config', help='path of a config, or name of a shipped one')
    parser.add_argument('checkpoint', help='a checkpoint of it')
    parser.add_argument(
        '--probes',
        nargs='+',
        choices=PROBES,
        default=list(PROBES),
        metavar='PROBE',
        help=f'some of {", ".join(PROBES)} (default: all)',
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='a JSON file to write too')
    parser.add_argument(
        '--cfg-options', nargs='+', metavar='KEY=VALUE', help='options of the config'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str], prog: str = 'poslabel probe') -> int:
    """Run the command.

    Returns:
        int: The exit status.

    Raises:
        UserError: For weights, images or options that cannot be used.
    """
    args = parse_args(argv, prog)
    # The help has to answer at once; this imports the whole stack.
    from poslabel_mm.launch.arguments import read_config
    from poslabel_mm.launch.guard import Guard
    from poslabel_mm.stack.config_prefix import without_own_scope
    from poslabel_mm.stack.image_errors import name_unreadable_images

    if args.out is not None and not args.out.parent.is_dir():
        raise UserError(f'the folder of --out {args.out} does not exist')
    with Guard(), without_own_scope():
        name_unreadable_images()
        cfg = read_config(args.config, args.cfg_options)
        figures = _measured(cfg, args.checkpoint, [PROBES[name] for name in args.probes])
    for name, value in figures.items():
        print(f'{name:<32} {value:.4f}')
    if args.out is not None:
        from poslabel_mm.engine.files import write_atomically

        write_atomically(json.dumps(figures, indent=1).encode(), args.out)
    return 0


def _measured(cfg, checkpoint: str, kinds: list[str]) -> dict[str, float]:
    from mmengine.registry import HOOKS

    from poslabel_mm.launch.checks.data import check_data
    from poslabel_mm.launch.saved_model import load_saved_model

    loaders = 'train_dataloader', 'val_dataloader', 'test_dataloader'
    check_data(cfg, tuple(name for name in loaders if cfg.get(name) is not None))
    model, _ = load_saved_model(cfg, checkpoint)
    named = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or ())]
    figures = {}
    for kind in (f'poslabel_mm.{kind}' for kind in kinds):
        of_kind = [hook for hook in named if hook and hook.get('type') == kind]
        hook = {**(of_kind[0] if of_kind else dict(type=kind))}
        hook.pop('priority', None)
        figures |= HOOKS.build(hook).measure(model, cfg)
    return figures
