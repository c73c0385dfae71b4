"""Split Caltech-256 into training and test images: four fifths and a fifth of a class.

    tar xf 256_ObjectCategories.tar
    %(prog)s 256_ObjectCategories

makes data/caltech256/{train,test}/CLASS/IMAGE, links to the images, and the
split file data/caltech256/split.json. All 257 classes are kept, the clutter
among them. The paper gives no split: this one follows from the seed.
"""

import os.path as osp
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from poslabel_mm.arguments import Parser
from poslabel_mm.datasets.converters.arguments import add_split_options
from poslabel_mm.datasets.converters.conversion import Classes, Conversion, num_test_of_a_fifth
from poslabel_mm.datasets.converters.images import list_folder
from poslabel_mm.datasets.sources import CALTECH256
from poslabel_mm.errors import UserError

ARCHIVE_FOLDER = '256_ObjectCategories'
CLASS_FOLDER = re.compile(r'(\d{3})\..+')  # 001.ak47 to 257.clutter


class Size(NamedTuple):
    """The size of the whole dataset."""

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


def main(argv: Sequence[str] | None = None, size: Size = Size(), prog: str | None = None) -> None:
    """Run the converter; :mod:`.arguments` describes the arguments."""
    parser = Parser(prog, __doc__)
    parser.add_argument('source', help=f'the unpacked {ARCHIVE_FOLDER}, or its parent folder')
    add_split_options(parser, CALTECH256.folder)
    args = parser.parse_args(argv)
    conversion = Conversion('caltech256', args)
    if conversion.is_complete():
        return
    source = Path(args.source)
    if osp.isdir(source / ARCHIVE_FOLDER):
        source = source / ARCHIVE_FOLDER
    conversion.run(find_classes(source, size), source, num_test_of_a_fifth)
