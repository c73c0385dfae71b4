"""Split Caltech-256 into training and test images: 80 % and 20 % of a class.

    tar xf 256_ObjectCategories.tar
    python tools/dataset_converters/caltech256.py 256_ObjectCategories

makes data/caltech256/{train,test}/CLASS/IMAGE, links to the images, and the
split file data/caltech256/split.json. All 257 classes are kept, the clutter
among them. The paper gives no split: this one follows from the seed.
"""

import argparse
import os.path as osp
import re
import signal
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == '__main__':
    # Until there is something to be stopped, Ctrl-C needs no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.realpath(__file__)))))

try:
    from poslabel_mm import UserError
except ImportError as error:
    if error.name is not None:
        raise
    sys.exit(f'error: {error}')  # what the MM stack lacks
from poslabel_mm.datasets.conversion import Classes, Conversion, Parser, list_folder, run_tool  # noqa: E402
from poslabel_mm.datasets.sources import CALTECH256  # noqa: E402

ARCHIVE_FOLDER = '256_ObjectCategories'
CLASS_FOLDER = re.compile(r'(\d{3})\..+')  # 001.ak47 to 257.clutter


class Size(NamedTuple):
    """What a whole dataset holds."""

    classes: int = 257
    images: int = 30_607
    least_of_a_class: int = 80


def find_classes(source: Path, size: Size) -> Classes:
    """The images of every class folder.

    Raises:
        UserError: If folders or images are missing, or there are too many.
    """
    numbers = {}
    classes: Classes = {}
    for folder in list_folder(source)[0]:
        match = CLASS_FOLDER.fullmatch(folder.name)
        if match is None:
            continue
        number = int(match[1])
        if number in numbers:
            raise UserError(
                f'{source} has two folders of class {match[1]}: '
                f'{numbers[number]} and {folder.name}'
            )
        numbers[number] = folder.name
        folders, images, others = list_folder(folder)
        for path in folders + others:  # the archive has two such
            print(f'left out, no image: {path.relative_to(source)}')
        classes[folder.name] = {path.name: path for path in images}
        if len(images) < size.least_of_a_class:
            raise UserError(
                f'{folder} holds {len(images)} images, every class of '
                f'{CALTECH256.title} has at least {size.least_of_a_class}: '
                'unpack the archive again'
            )
    missing = [n for n in range(1, size.classes + 1) if n not in numbers]
    if not classes or missing or len(classes) > size.classes:
        lack = f', without {missing[0]:03d}.*' if missing else ''
        raise UserError(
            f'{source} holds {len(classes)} class folders such as 001.ak47'
            f'{lack}; expected {size.classes}, in the {ARCHIVE_FOLDER} of '
            f'{CALTECH256.origin}'
        )
    total = sum(map(len, classes.values()))
    if total != size.images:
        raise UserError(
            f'{source} holds {total:,} images, '
            f'{CALTECH256.title} has {size.images:,}: unpack the '
            'archive again'
        )
    return classes


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help=f'the unpacked {ARCHIVE_FOLDER}, or its parent folder')
    parser.add_split_options(CALTECH256.folder)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, size: Size = Size()) -> None:
    args = parse_args(argv)
    conversion = Conversion('caltech256', args.out, args.seed, args.copy)
    if conversion.is_complete():
        return
    source = Path(args.source)
    if osp.isdir(source / ARCHIVE_FOLDER):
        source = source / ARCHIVE_FOLDER
    conversion.run(
        find_classes(source, size),
        source,
        # A fifth, to the nearest whole number.
        num_test=lambda count: (count + 2) // 5,
        skip_unreadable=args.skip_unreadable,
    )


if __name__ == '__main__':
    run_tool(main)
