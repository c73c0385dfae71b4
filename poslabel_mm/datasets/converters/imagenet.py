"""Check that ImageNet-1K is whole and where the configs expect it.

    %(prog)s --check data/imagenet

counts the images of data/imagenet/{train,val}/CLASS/ or, as MMPretrain does,
those that meta/train.txt and meta/val.txt list. With --read it also opens
every image, names those that cannot be read, and identical ones.
"""

import os.path as osp
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from poslabel_mm.arguments import Parser
from poslabel_mm.datasets.class_folders import read_lines
from poslabel_mm.datasets.converters.images import (
    check_names,
    inspect_images,
    list_folder,
    progress,
    refuse_unreadable,
)
from poslabel_mm.datasets.sources import IMAGENET
from poslabel_mm.errors import UserError

SIDES = ('train', 'val')
Images = dict[str, list[Path]]


class Size(NamedTuple):
    """The size of the whole dataset."""

    classes: int = 1000
    train: int = 1_281_167
    val: int = 50_000


def foldered_images(folder: Path, size: Size) -> Images:
    """The images of every class folder.

    Raises:
        UserError: If the images are not in class folders, if the number of
            classes differs, or if a name is not UTF-8.
    """
    folders, images, _ = list_folder(folder)
    if images and not folders:
        raise UserError(
            f'{folder} holds {len(images):,} images and no class folders: move '
            'each image into the folder of its class, or list them with their '
            f'labels, `IMAGE LABEL` a line, in '
            f'{folder.parent / "meta" / folder.name}.txt'
        )
    if len(folders) != size.classes:
        raise UserError(
            f'{folder} holds {len(folders):,} class folders, {IMAGENET.title} has {size.classes:,}'
        )
    found = {
        path.name: list_folder(path)[1] for path in progress(folders, f'listing {folder.name}')
    }
    check_names({name: [path.name for path in paths] for name, paths in found.items()}, folder)
    return found


def listed_images(path: Path, classes: list[str]) -> Images:
    """The images of a list, by class; its labels count the sorted classes.

    Raises:
        UserError: For a list that cannot be read, a line that is wrong, or an
            image that is missing or outside of the list's folder.
    """
    folder = path.parents[1] / path.stem
    images: Images = {name: [] for name in classes}
    for number, line in enumerate(progress(read_lines(path), f'listing {path.stem}'), 1):
        name, _, label = line.strip().rpartition(' ')
        if not label.isdecimal() or int(label) >= len(classes) or not name:
            raise UserError(
                f'{path}, line {number}: expected an image and a '
                f'label from 0 to {len(classes) - 1}'
            )
        if name.startswith('/') or '..' in PurePosixPath(name).parts:
            raise UserError(
                f'{path}, line {number}: {name!r} is outside of {folder}: name the images below it'
            )
        if not osp.isfile(folder / name):
            raise UserError(f'{path}, line {number}: there is no {folder / name}')
        images[classes[int(label)]].append(folder / name)
    return images


def check(root: Path, size: Size = Size()) -> list[Path]:
    """Count the images.

    Returns:
        list[Path]: All of them.

    Raises:
        UserError: If anything is missing or superfluous, naming the first such thing.
    """
    for side in SIDES:
        if not osp.isdir(root / side):
            raise UserError(
                f'{root / side} does not exist: expected '
                f'{root}/{{train,val}}/<class>/<image>.JPEG, '
                f'from {IMAGENET.origin}'
            )
    sides: dict[str, Images] = {}
    for side in SIDES:
        path = root / 'meta' / f'{side}.txt'
        if not osp.isfile(path):
            sides[side] = foldered_images(root / side, size)
        elif side == 'train':
            names = [folder.name for folder in list_folder(root / side)[0]]
            sides[side] = listed_images(
                path, names or [str(label) for label in range(size.classes)]
            )
        else:
            sides[side] = listed_images(path, sorted(sides['train']))
    train, val = sides['train'], sides['val']
    alone = sorted(set(train) ^ set(val))
    if alone:
        side = 'train' if alone[0] in train else 'val'
        raise UserError(f'{root} has class {alone[0]} in {side}/ only')
    for side, expected in ('train', size.train), ('val', size.val):
        empty = [name for name, images in sides[side].items() if not images]
        if empty:
            raise UserError(f'{root / side} has no images of class {empty[0]}')
        found = sum(map(len, sides[side].values()))
        if found != expected:
            raise UserError(
                f'{root / side} holds {found:,} images, {IMAGENET.title} has {expected:,} there'
            )
    of_a_class = size.val // size.classes
    uneven = [name for name in sorted(val) if len(val[name]) != of_a_class]
    if uneven:
        raise UserError(
            f'{root / "val"} has {len(val[uneven[0]])} images of '
            f'class {uneven[0]}, expected {of_a_class} of each'
        )
    return [path for side in SIDES for images in sides[side].values() for path in images]


def main(argv: Sequence[str] | None = None, size: Size = Size(), prog: str | None = None) -> None:
    """Run the check; :mod:`.arguments` describes the arguments."""
    parser = Parser(prog, __doc__)
    parser.add_argument(
        '--check', metavar='FOLDER', required=True, help='the folder of train/ and val/'
    )
    parser.add_argument('--read', action='store_true', help='open every image: an hour or so')
    args = parser.parse_args(argv)
    root = Path(args.check)
    paths = check(root, size)
    if args.read:
        unreadable, duplicates = inspect_images(paths)
        for group in duplicates:
            print('identical: ' + ', '.join(str(path.relative_to(root)) for path in group))
        if duplicates:
            print(f'{len(duplicates)} groups of identical images')
        refuse_unreadable(unreadable, 'get them from the archives again')
    print(
        f'{root} is whole: {size.classes:,} classes, {size.train:,} images '
        f'to train on and {size.val:,} to validate'
        f'{", every one readable" if args.read else ""}'
    )
