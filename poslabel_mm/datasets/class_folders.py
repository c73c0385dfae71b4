"""Class folders and lists of images, read as MMPretrain's CustomDataset reads them."""

import functools
import os
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from poslabel_mm.errors import UserError

#: How the names of images end for MMPretrain's CustomDataset, in lower case.
IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
# Folders of Jupyter, macOS, Windows and file systems begin with a dot or have one of these names.
NO_CLASSES = ('__MACOSX', 'lost+found', '@eaDir', '$RECYCLE.BIN', 'System Volume Information')


def class_names(folder: str) -> list[str]:
    """Names of the sub-folders, sorted: the index of a name is its label.

    MMPretrain counts hidden folders too.

    Raises:
        UserError: If the folder cannot be read.
    """
    with scanned(folder) as entries:
        return sorted(entry.name for entry in entries if osp.isdir(entry.path))


def is_no_class(name: str) -> bool:
    """Whether a folder of this name is never meant as a class."""
    return name.startswith('.') or name in NO_CLASSES


def count_by_class(folder: str, extensions: tuple[str, ...]) -> dict[str, int]:
    """The number of images in each class folder, sub-folders included.

    Args:
        folder (str): The folder of the class folders.
        extensions (tuple[str]): What the name of an image may end with, in
            lower case.

    Raises:
        UserError: If a folder cannot be read or a symbolic link is a loop.
    """
    above = (_identity(folder),)
    return {
        name: count_images(osp.join(folder, name), extensions, above)
        for name in class_names(folder)
    }


def images_by_class(root: str) -> dict[str, list[int]]:
    """The numbers of images of a dataset's class folders, in the order of their names.

    Args:
        root (str): The folder of ``train/`` and of ``val/`` or ``test/``.

    Returns:
        dict[str, list[int]]: The numbers in each of these three folders that is there.

    Raises:
        UserError: If a folder cannot be read or a symbolic link is a loop.
    """
    sides = (side for side in ('train', 'val', 'test') if osp.isdir(osp.join(root, side)))
    return {side: _counts(osp.join(root, side)) for side in sides}


def _counts(folder: str) -> list[int]:
    # A folder's time changes with the files in it. Counting all of ImageNet takes seconds.
    times = (os.stat(osp.join(folder, name)).st_mtime_ns for name in class_names(folder))
    return list(_cached_counts(folder, tuple(times)))


@functools.lru_cache(maxsize=8)
def _cached_counts(folder: str, times: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(count_by_class(folder, IMAGE_EXTENSIONS).values())


def count_images(
    folder: str, extensions: tuple[str, ...], above: tuple[tuple[int, int], ...] = ()
) -> int:
    """The number of images below a folder, those behind symbolic links included.

    Args:
        folder (str): The folder to begin with.
        extensions (tuple[str]): What the name of an image may end with, in
            lower case.
        above (tuple): The device and inode of each folder on the way here.

    Raises:
        UserError: If a folder cannot be read or a symbolic link is a loop.
    """
    here = _identity(folder)
    if here in above:
        link = folder
        while not osp.islink(link):  # what is behind the link stays
            link = osp.dirname(link)
        raise UserError(f'the symbolic link {link} is a loop: remove it')
    images, folders = 0, []
    with scanned(folder) as entries:
        for entry in entries:  # a million of them in ImageNet
            name = entry.name
            if not name.startswith('.') and entry.is_file():
                images += name.lower().endswith(extensions)
            elif osp.isdir(entry.path):
                folders.append(entry.path)
    return images + sum(count_images(path, extensions, above + (here,)) for path in folders)


@contextmanager
def scanned(folder: str | Path) -> Iterator[Iterator[os.DirEntry]]:
    """The entries of a folder; what the system cannot read of it or of them is one line.

    Args:
        folder (str | Path): The folder.

    Yields:
        Iterator[os.DirEntry]: Its entries, in no order.

    Raises:
        UserError: If the folder cannot be read, or a link in it cannot be followed.
    """
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        if error.filename is None or str(error.filename) == str(folder):
            raise UserError(f'cannot read the folder {folder}: {error.strerror}') from error
        raise UserError(
            f'cannot follow the symbolic link {error.filename} ({error.strerror}): remove it'
        ) from error


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise UserError(f'cannot read the folder {folder}: {error.strerror}') from error
    return status.st_dev, status.st_ino


class ImageList(NamedTuple):
    """The content of an annotation file.

    Args:
        size (int): The number of images.
        labels (set[int]): The labels that occur.
        label_of (dict[str, int]): The label of each folder of images; empty
            unless every folder has one label and every label one folder.
    """

    size: int
    labels: set[int]
    label_of: dict[str, int]


def read_list(path: str, with_label: bool = True) -> ImageList:
    """Read an annotation file, ``IMAGE LABEL`` a line.

    Args:
        path (str): The file.
        with_label (bool): Whether a line has a label. Otherwise it is an image alone. Defaults
            to True.

    Raises:
        UserError: If it cannot be read, or a line has no label.
    """
    lines = read_lines(path)
    if not with_label:
        return ImageList(len(lines), set(), {})
    pairs = set()
    for line in lines:  # a million of them in ImageNet
        image, _, label = line.strip().rpartition(' ')
        pairs.add((image[: image.rfind('/') + 1], label, bool(image)))
    if not all(has_image and _is_number(label) for _, label, has_image in pairs):
        number, line = next(
            (number, line)
            for number, line in enumerate(map(str.strip, lines), 1)
            if ' ' not in line or not _is_number(line.rpartition(' ')[2])
        )
        raise UserError(
            f'{path}, line {number}: expected an image and the number of its class, got {line!r}'
        )
    labels = {int(label) for _, label, _ in pairs}
    label_of = {osp.basename(folder[:-1]): int(label) for folder, label, _ in pairs}
    one_to_one = len(pairs) == len(label_of) == len(labels) and '' not in label_of
    return ImageList(len(lines), labels, label_of if one_to_one else {})


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with open(path, encoding='utf-8') as file:
            lines = file.read().split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f'cannot read {path}: {getattr(error, "strerror", None) or error}'
        ) from error
    return lines[:-1] if lines[-1] == '' else lines


def _is_number(text: str) -> bool:
    return text.removeprefix('-').isdecimal()
