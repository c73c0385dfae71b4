"""Make Mini-ImageNet for classification: 100 classes, 500 + 100 images each.

From ImageNet-1K and the split files train.csv, val.csv, test.csv that list the
60,000 images of its 64, 16 and 20 few-shot classes:

    %(prog)s data/imagenet --csv FOLDER

From the images themselves: 100 class folders, side by side or below train/,
val/ and test/, or one folder of all images and the split files:

    %(prog)s mini-imagenet

Either makes data/mini_imagenet/{train,test}/CLASS/IMAGE, links to the images,
with all 100 classes on both sides, and the split file split.json there. Images
that have the same names are split in the same way, wherever they come from.

The split files number the images of a class, from 1, in the order of the
numbers in ImageNet's file names: n0153282900000005.jpg is the fifth one of
n01532829. So a class folder must be whole: the converter of ImageNet checks it.
"""

import csv
import os.path as osp
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from poslabel_mm.arguments import Parser
from poslabel_mm.datasets.class_folders import IMAGE_EXTENSIONS
from poslabel_mm.datasets.converters.arguments import add_split_options
from poslabel_mm.datasets.converters.conversion import Classes, Conversion
from poslabel_mm.datasets.converters.images import fault_of_name, list_folder
from poslabel_mm.datasets.sources import MINI_IMAGENET
from poslabel_mm.errors import UserError

SPLIT_FILES = ('train.csv', 'val.csv', 'test.csv')
NUMBERED = re.compile(r'(n\d{8})(\d{8})\.jpg')
IMAGENET_NAME = re.compile(r'n\d{8}_(\d+)\.JPEG', re.IGNORECASE)


class Size(NamedTuple):
    """The size of the whole dataset."""

    classes: int = 100
    train_of_a_class: int = 500
    test_of_a_class: int = 100

    @property
    def images_of_a_class(self) -> int:
        return self.train_of_a_class + self.test_of_a_class


def listed_images(source: Path, folder: Path) -> Classes:
    """The images that the split files list.

    Args:
        source (Path): ImageNet, its train folder, or a folder of all images.
        folder (Path): Where the split files are.

    Raises:
        UserError: For a split file or an image that is missing or wrong.
    """
    images = source / 'train' if osp.isdir(source / 'train') else source
    if not osp.isdir(images):
        raise UserError(f'the source {images} is no folder')
    finder = _Finder(images)
    classes: Classes = {}
    for name in SPLIT_FILES:
        path = folder / name
        try:
            with open(path, newline='', encoding='utf-8-sig') as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f'cannot read {path} ({getattr(error, "strerror", error)}): '
                f'--csv names the folder of {", ".join(SPLIT_FILES)}, '
                f'from {MINI_IMAGENET.origin}'
            ) from error
        for number, row in enumerate(rows, 2):
            filename, label = row.get('filename'), row.get('label')
            if not filename or not label:
                raise UserError(f'{path}, line {number}: expected the columns filename,label')
            for column, value in ('label', label), ('filename', filename):
                fault = fault_of_name(value)
                if (
                    fault is None
                    and column == 'filename'
                    and (not value.lower().endswith(IMAGE_EXTENSIONS))
                ):
                    fault = f'ends with none of {", ".join(IMAGE_EXTENSIONS)}'
                if fault is not None:
                    raise UserError(
                        f'{path}, line {number}: the {column} '
                        f'{value!r} {fault}: take the split files '
                        f'from {MINI_IMAGENET.origin}'
                    )
            of_class = classes.setdefault(label, {})
            if filename in of_class:
                raise UserError(f'{path}, line {number}: {filename} is listed twice')
            try:
                of_class[filename] = finder.find(filename, label)
            except LookupError as error:
                raise UserError(f'{path}, line {number}: {error.args[0]}') from error
    return classes


class _Finder:
    """The file of an image that a split file names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbered: dict[str, list[Path]] = {}

    def find(self, filename: str, label: str) -> Path:
        for path in self.folder / label / filename, self.folder / filename:
            if osp.isfile(path):
                return path
        match = NUMBERED.fullmatch(filename)
        if not osp.isdir(self.folder / label):
            raise LookupError(f'{self.folder} has no class folder {label} and no image {filename}')
        if match is None or match[1] != label:
            raise LookupError(f'{self.folder / label} has no image {filename}')
        images, number = self._images(label), int(match[2])
        if not 1 <= number <= len(images):
            raise LookupError(
                f'{filename} is image {number} of {self.folder / label}, '
                f'which holds {len(images)} named like {label}_10.JPEG: is '
                'the class complete?'
            )
        return images[number - 1]

    def _images(self, label: str) -> list[Path]:
        if label not in self._numbered:
            matches = (
                (IMAGENET_NAME.fullmatch(path.name), path)
                for path in list_folder(self.folder / label)[1]
            )
            self._numbered[label] = [
                path
                for _, path in sorted((int(match[1]), path) for match, path in matches if match)
            ]
        return self._numbered[label]


def foldered_images(source: Path) -> Classes:
    """The images of class folders, perhaps below train/, val/ and test/."""
    sides = [source / side for side in ('train', 'val', 'test') if osp.isdir(source / side)]
    classes: Classes = {}
    for side in sides or [source]:
        for folder in list_folder(side)[0]:
            for path in list_folder(folder)[1]:
                of_class = classes.setdefault(folder.name, {})
                if path.name in of_class:
                    raise UserError(f'{source} has two images {path.name} of class {folder.name}')
                of_class[path.name] = path
    return classes


def check_counts(classes: Classes, where: str, size: Size) -> None:
    """Refuse anything but all images of all classes.

    Args:
        classes (dict): The images of each class.
        where (str): Where they were found.
        size (Size): How many there should be.

    Raises:
        UserError: The first class with too few or too many images, or the
            number of classes.
    """
    if len(classes) != size.classes:
        raise UserError(
            f'{len(classes)} classes {where}, {MINI_IMAGENET.title} has {size.classes}'
        )
    for name, images in sorted(classes.items()):
        if len(images) != size.images_of_a_class:
            raise UserError(
                f'{len(images)} images of class {name} {where}, '
                f'{MINI_IMAGENET.title} has {size.images_of_a_class} of each'
            )


def main(argv: Sequence[str] | None = None, size: Size = Size(), prog: str | None = None) -> None:
    """Run the converter; :mod:`.arguments` describes the arguments."""
    parser = Parser(prog, __doc__)
    parser.add_argument('source', help='ImageNet-1K, or the 100 class folders')
    parser.add_argument('--csv', metavar='FOLDER', help=f'where {", ".join(SPLIT_FILES)} are')
    add_split_options(parser, MINI_IMAGENET.folder)
    args = parser.parse_args(argv)
    conversion = Conversion('mini_imagenet', args)
    if conversion.is_complete():
        return
    source = Path(args.source)
    if args.csv is None:
        classes = foldered_images(source)
        where = f'in {source} (ImageNet itself needs --csv FOLDER)'
    else:
        classes = listed_images(source, Path(args.csv))
        where = f'in the split files of {args.csv}'
    check_counts(classes, where, size)
    conversion.run(classes, source, num_test=lambda count: size.test_of_a_class)
