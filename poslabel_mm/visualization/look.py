"""The command ``poslabel look``: pictures of what a saved model knows of positions."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.arguments import Parser
from poslabel_mm.errors import UserError

DESCRIPTION = """Pictures of what a saved model knows of the positions of patches.

  map        where each patch of an image is predicted to be, and how far off that is
  jigsaw     the patches shuffled in the input, and put back where the model says
  features   principal components of the patch tokens, attention of the class token,
             similarity to a chosen patch
  errors     the error by the patch's true place, over all images that are given

The weights are checked as for a test. Models without position heads show their features."""

EPILOG = """examples:
  poslabel look vit-tiny_apl_digits.py work_dirs/vit-tiny_apl_digits/epoch_30.pth val --out look
  poslabel look my_config.py with.pth photo.jpg --against without.pth --what features --out look

The pictures go to DIR as PNG files, and to the TensorBoard, WandB and other backends that the
config's `visualizer` names."""

WHAT = ('map', 'jigsaw', 'features', 'errors')
ENCODINGS = ('kept', 'removed', 'shuffled')
SPLITS = ('train', 'val', 'test')


def positive(text: str) -> int:
    """The ``type`` of an argument that is a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number from 1 on, got {text!r}')
    return int(text)


def natural(text: str) -> int:
    """The ``type`` of an argument that is a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'expected a whole number from 0 on, got {text!r}')
    return int(text)


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the command's arguments.

    Raises:
        UserError: If one is wrong.
    """
    parser = Parser(prog, DESCRIPTION, epilog=EPILOG)
    parser.add_argument('config', help='path of a config, or name of a shipped one')
    parser.add_argument('checkpoint', help='a checkpoint of it')
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGES',
        help="files, folders, or train, val or test: the images of the config's split",
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR', help='where the pictures go'
    )
    parser.add_argument(
        '--what',
        nargs='+',
        choices=WHAT,
        metavar='KIND',
        help=f'which pictures: {", ".join(WHAT)} (default: all that the model has)',
    )
    parser.add_argument(
        '--encoding',
        choices=ENCODINGS,
        default='kept',
        help='what becomes of the positional encoding in the jigsaw: it stays at its places, is '
        'removed, or is shuffled along with the patches (default: kept)',
    )
    parser.add_argument(
        '--patch',
        nargs=2,
        type=natural,
        metavar=('ROW', 'COLUMN'),
        help='the patch that the others are compared with, counted from 0 (default: the middle)',
    )
    parser.add_argument(
        '--against',
        metavar='CHECKPOINT',
        help='a second checkpoint, shown below the first in the same pictures',
    )
    parser.add_argument(
        '--against-config', metavar='CONFIG', help='the config of the second (default: the same)'
    )
    parser.add_argument(
        '--pictures',
        type=positive,
        default=4,
        metavar='N',
        help='draw at most N images, evenly spaced among those given (default: 4)',
    )
    parser.add_argument(
        '--at-most',
        type=positive,
        default=1000,
        metavar='N',
        help='average errors over at most N images, evenly spaced (default: 1000)',
    )
    parser.add_argument(
        '--seed', type=natural, default=0, help='of the shuffled patches (default: 0)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        metavar='KEY=VALUE',
        help='options of the config, and of the second if it is the same',
    )
    args = parser.parse_args(argv)
    if args.against_config and not args.against:
        raise UserError('--against-config is the config of --against CHECKPOINT: give both')
    return args


def main(argv: Sequence[str], prog: str = 'poslabel look') -> int:
    """Run the command; see :data:`DESCRIPTION`.

    Returns:
        int: The exit status.

    Raises:
        UserError: For arguments, weights or images that cannot be used.
    """
    args = parse_args(argv, prog)
    # The help has to answer at once; this imports the whole stack.
    from poslabel_mm.visualization.look_pictures import look

    look(args)
    return 0
