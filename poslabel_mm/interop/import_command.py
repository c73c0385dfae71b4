"""The command ``poslabel import``: another library's weights as a checkpoint for a config."""

import argparse
import os.path as osp
from collections.abc import Sequence

from poslabel_mm.arguments import Parser

LAYOUTS = {
    'timm': 'timm: ViT, DeiT, Swin, and any model of TIMMBackbone',
    'mae': "MAE's own code, with its decoder for a config that pre-trains",
    'dinov2': "DINOv2's own code; the config's ViT needs layer scale",
    'deit': "DeiT's own code; the config's ViT needs layer scale for DeiT III",
    'swin': "Swin's own code",
    'hf': "Hugging Face's ViT, MAE encoder and DINOv2: a folder or its file",
}

DESCRIPTION = """Writes another library's weights as a checkpoint that a config starts from, and
reports what arrived, what is new and what was left out. Files are read as weights alone: .pth,
.safetensors, or a folder of Hugging Face. Encodings of another patch grid are resized. If layers
are missing, nothing is written and the exit status is 1."""

EXAMPLE = """example:
  poslabel import mae_pretrain_vit_base.pth --from mae --to vit-b_apl_from-mae_in1k.py"""


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the command's arguments.

    Raises:
        UserError: If one is wrong.
    """
    layouts = '\n'.join(f'  {name:<8} {text}' for name, text in LAYOUTS.items())
    parser = Parser(prog, DESCRIPTION, epilog=f'whose files:\n{layouts}\n\n{EXAMPLE}')
    parser.add_argument('file', help='a file of weights, or a folder of Hugging Face')
    parser.add_argument(
        '--from', required=True, choices=LAYOUTS, dest='layout', help='whose file, see below'
    )
    parser.add_argument(
        '--to',
        required=True,
        metavar='CONFIG',
        help='path of a config, or name of a shipped one, whose model the weights are for',
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='a .pth file that does not exist (default: NAME_poslabel.pth in the current folder)',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', metavar='KEY=VALUE', help='options of the config'
    )
    args = parser.parse_args(argv)
    if args.out is None:
        name = osp.basename(osp.normpath(osp.abspath(args.file)))
        args.out = f'{osp.splitext(name)[0]}_poslabel.pth'
    return args


def main(argv: Sequence[str], prog: str = 'poslabel import') -> int:
    """Run the command.

    Returns:
        int: The exit status.

    Raises:
        UserError: For a file that cannot be read, or weights that do not fit the config's model.
    """
    args = parse_args(argv, prog)
    # The help has to answer at once; this imports the whole stack.
    from poslabel_mm.interop.importing import import_weights

    import_weights(args)
    return 0
