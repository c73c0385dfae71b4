"""The command ``poslabel export``: a saved model for other libraries, without position heads."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from poslabel_mm.arguments import Parser


class Format(NamedTuple):
    """A format that is written.

    Attributes:
        help (str): What it is.
        endings (tuple[str, ...]): The endings of its file; empty for a folder.
        packages (tuple[str, ...]): The modules that it needs.
    """

    help: str
    endings: tuple[str, ...]
    packages: tuple[str, ...] = ()


FORMATS = {
    'stock': Format("a checkpoint of MMPretrain's own model (.pth)", ('.pth',)),
    'timm': Format(
        'weights of a timm model (.safetensors or .pth): ViT, DeiT, Swin, TIMMBackbone',
        ('.safetensors', '.pth'),
        ('timm',),
    ),
    'hf': Format(
        "a folder of Hugging Face's ViTForImageClassification: ViT",
        (),
        ('transformers', 'safetensors'),
    ),
    'onnx': Format(
        'an ONNX program for any batch (.onnx)', ('.onnx',), ('onnx', 'onnxscript', 'onnxruntime')
    ),
    'torch-export': Format('a program of torch.export for any batch (.pt2)', ('.pt2',)),
    'safetensors': Format(
        'weights by the stock names (.safetensors)', ('.safetensors',), ('safetensors',)
    ),
}

DESCRIPTION = """Writes the network of a saved model without its position heads: a classifier, or
the ViT that a self-supervised algorithm has trained. What was written is read again by the
library that it is for, and its outputs are compared with the model's. If they differ, nothing is
left behind and the exit status is 1."""

EXAMPLE = """example:
  poslabel export vit-b_apl_in1k.py work_dirs/vit-b_apl_in1k/epoch_300.pth --to timm \\
      --out vit-b.safetensors"""


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the command's arguments.

    Raises:
        UserError: If one is wrong.
    """
    formats = '\n'.join(f'  {name:<14} {form.help}' for name, form in FORMATS.items())
    parser = Parser(prog, DESCRIPTION, epilog=f'formats:\n{formats}\n\n{EXAMPLE}')
    parser.add_argument('config', help='path of a config, or name of a shipped one')
    parser.add_argument('checkpoint', help='a checkpoint of it')
    parser.add_argument('--to', required=True, choices=FORMATS, help='the format, see below')
    parser.add_argument(
        '--out', required=True, metavar='FILE', help='a file that does not exist; for hf a folder'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', metavar='KEY=VALUE', help='options of the config'
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str], prog: str = 'poslabel export') -> int:
    """Run the command.

    Returns:
        int: The exit status.

    Raises:
        UserError: For a model that the format cannot hold, or a file that cannot be written.
    """
    args = parse_args(argv, prog)
    # The help has to answer at once; this imports the whole stack.
    from poslabel_mm.interop.exporting import export

    export(args)
    return 0
