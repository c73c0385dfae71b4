"""Folders of images, listed and read; nothing here writes."""

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from poslabel_mm.datasets.class_folders import IMAGE_EXTENSIONS, scanned
from poslabel_mm.errors import UserError

PATH = re.compile(r'[/\\]|^.:')  # of any system
CONTROL = re.compile(r'[\x00-\x1f\x7f]')
BATCH = 1024  # images that are queued for the readers at a time


class Inspection(NamedTuple):
    """The result of reading every image of a dataset.

    Args:
        unreadable (dict[Path, str]): The reason for each.
        duplicates (list[list[Path]]): Files with the same content.
    """

    unreadable: dict[Path, str]
    duplicates: list[list[Path]]


def list_folder(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The sub-folders, the images and all other files of a folder, each sorted by name.

    Raises:
        UserError: If there is no such folder, or it cannot be read.
    """
    folders, images, others = [], [], []
    with scanned(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith('.'):
                kind = others
            elif entry.is_dir():
                kind = folders
            elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                kind = images
            else:
                kind = others
            kind.append(folder / entry.name)
    return folders, images, others


def fault_of_name(name: str) -> str | None:
    """Why a class or an image cannot have this name, None if it can.

    A name becomes that of a folder or file below the output folder, and the
    record is in UTF-8.
    """
    if not name:
        return 'is empty'
    if PATH.search(name):
        return 'is a path'
    if name.startswith('.'):
        return 'begins with a dot'
    if CONTROL.search(name):
        return 'holds a control character'
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return 'is not UTF-8'
    return 'is longer than 255 bytes' if length > 255 else None


def check_names(classes: dict[str, Iterable[str]], source: Path) -> None:
    """Check that names can be those of folders and files, in UTF-8.

    Args:
        classes (dict): The names of the images of each class.
        source (Path): Where they come from.

    Raises:
        UserError: Naming the first that cannot.
    """
    for class_name, images in classes.items():
        for kind, name in ('a class', class_name), *(('an image', name) for name in images):
            fault = fault_of_name(name)
            if fault is not None:
                raise UserError(f'the name {name!r} of {kind} in {source} {fault}: rename it')


def progress(items, description: str, total: int | None = None):
    """Iterate with a bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        items,
        description,
        total=total,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def inspect_images(paths: list[Path]) -> Inspection:
    """Decode every image, on all cores, and compare their contents."""
    unreadable: dict[Path, str] = {}
    same: dict[bytes, list[Path]] = {}
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        # Of harmless metadata, without the image's name.
        warnings.filterwarnings('ignore', module='PIL')

        def read() -> Iterator[tuple[bytes, str | None]]:
            for start in range(0, len(paths), BATCH):
                yield from pool.map(_read_image, paths[start : start + BATCH])

        for (digest, reason), path in zip(progress(read(), 'reading images', len(paths)), paths):
            if reason is None:
                same.setdefault(digest, []).append(path)
            else:
                unreadable[path] = reason
    return Inspection(unreadable, [group for group in same.values() if len(group) > 1])


def _read_image(path: Path) -> tuple[bytes, str | None]:
    from PIL import Image

    try:
        data = path.read_bytes()
    except OSError as error:
        return b'', error.strerror or str(error)
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
    except Image.UnidentifiedImageError:
        return b'', f'its {len(data)} bytes are no image'
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they meet
        return b'', str(error)
    return hashlib.blake2b(data, digest_size=16).digest(), None


def refuse_unreadable(unreadable: dict[Path, str], way_out: str) -> None:
    """Name the images that cannot be read.

    Raises:
        UserError: If there are any; several are listed on stderr first.
    """
    if not unreadable:
        return
    if len(unreadable) == 1:
        ((path, reason),) = unreadable.items()
        raise UserError(f'cannot read image {path} ({reason}): {way_out}')
    for path, reason in unreadable.items():
        print(f'cannot read {path} ({reason})', file=sys.stderr)
    raise UserError(f'cannot read {len(unreadable)} images, listed above: {way_out}')
