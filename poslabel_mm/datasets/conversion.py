"""Folders of images, split into train/ and test/: made whole or not at all.

    OUT/train/CLASS/IMAGE    links to the source's images, or copies
    OUT/test/CLASS/IMAGE
    OUT/split.json           who is where, from which seed; what was left out

They are built beside OUT and renamed when they are complete, so OUT is never
half a dataset. The source is only read.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import (
    Any,
    NamedTuple,
    NoReturn,
)

from PIL import Image
from rich.console import Console
from rich.progress import track

from poslabel_mm.errors import UserError

VERSION = 1
RECORD = 'split.json'
SIDES = ('train', 'test')
IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
PATH = re.compile(r'[/\\]|^.:')  # of any system
CONTROL = re.compile(r'[\x00-\x1f\x7f]')
BATCH = 1024  # images that wait for a reader

# Class -> name of an image -> its file.
Classes = dict[str, dict[str, Path]]


class Inspection(NamedTuple):
    """What reading every image of a dataset showed.

    Args:
        unreadable (dict[Path, str]): The reason for each.
        duplicates (list[list[Path]]): Files with the same content.
    """

    unreadable: dict[Path, str]
    duplicates: list[list[Path]]


class Parser(argparse.ArgumentParser):
    """Of a command's arguments; a mistake in them is one line as well."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}; {self.prog} --help lists the options')

    def add_split_options(self, folder: str) -> None:
        """Add what every conversion takes.

        Args:
            folder (str): Where the result goes by default.
        """
        self.add_argument('--out', default=folder, help='default: %(default)s')
        self.add_argument('--seed', type=int, default=0, help='of the split; default: %(default)s')
        self.add_argument(
            '--copy', action='store_true', help='copy the images instead of linking to them'
        )
        self.add_argument(
            '--skip-unreadable', action='store_true', help='leave out images that cannot be read'
        )


def run_tool(main: Callable[[], None]) -> None:
    """Run a command; a mistake is one line and exit status 1."""
    # The tools leave Ctrl-C to the system while they import; from here on
    # there are folders to clean up.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(sys.stdout, 'reconfigure'):
        # File names need not be text of the terminal's encoding.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        main()
    except UserError as error:
        sys.exit('error: ' + ' '.join(str(error).splitlines()))
    except KeyboardInterrupt:
        print('interrupted; nothing was changed', file=sys.stderr)
        sys.exit(130)


# ------------------------------------------------------------------- reading


def list_folder(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The sub-folders, the images and what is neither, each sorted by name.

    Raises:
        UserError: If there is no such folder, or it cannot be read.
    """
    folders, images, others = [], [], []
    try:
        with os.scandir(folder) as entries:  # which tells files from folders
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith('.'):
                    kind = others
                elif _leads_to_folder(entry):
                    kind = folders
                elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                    kind = images
                else:
                    kind = others
                kind.append(folder / entry.name)
    except OSError as error:
        raise UserError(f'cannot read the folder {folder}: {error.strerror}') from error
    return folders, images, others


def _leads_to_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        raise UserError(
            f'cannot follow the symbolic link {entry.path} ({error.strerror}): remove it'
        ) from error


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


# ----------------------------------------------------------------- splitting


def split_class(
    names: list[str], class_name: str, seed: int, num_test: int
) -> dict[str, list[str]]:
    """Draw the test images of a class.

    Whether an image is drawn depends on the seed and the names alone: on no
    order of files and no random generator.

    Args:
        names (list[str]): The images of the class.
        class_name (str): Its name.
        seed (int): Another seed draws others.
        num_test (int): How many.

    Returns:
        dict[str, list[str]]: ``train`` and ``test``, each sorted.
    """

    def rank(name: str) -> tuple[str, str]:
        # Without the suffix: the same image is .JPEG here and .jpg there.
        text = f'{seed}/{class_name}/{Path(name).stem}'
        return hashlib.sha256(text.encode()).hexdigest(), name

    drawn = set(sorted(names, key=rank)[:num_test])
    return {
        'train': sorted(set(names) - drawn),
        'test': sorted(drawn),
    }


# ---------------------------------------------------------------- converting


class Conversion:
    """A dataset in the making.

    Args:
        dataset (str): Its name, for the record.
        out (str): The folder to make.
        seed (int): Seed of the split.
        copy (bool): Copy the images; otherwise they are links.
    """

    def __init__(self, dataset: str, out: str, seed: int, copy: bool) -> None:
        self.out = Path(out)
        self.parameters = dict(dataset=dataset, version=VERSION, seed=seed, copy=copy)

    def is_complete(self) -> bool:
        """Has this been done already?

        Raises:
            UserError: If ``out`` is something else, was made with other
                parameters, or has lost or gained files since.
        """
        if not os.path.lexists(self.out):
            return False
        try:
            if os.path.isdir(self.out) and not os.listdir(self.out):
                return False
        except OSError as error:
            raise UserError(
                f'cannot read the folder {self.out} ({error.strerror}): choose another --out'
            ) from error
        record = self._read_record()
        for key, wanted in self.parameters.items():
            if record.get(key) != wanted:
                raise UserError(
                    f'{self.out} was made with {key}={record.get(key)}, not '
                    f'{wanted}: remove it, or choose another --out'
                )
        fault = _first_fault(self.out, record)
        if fault is not None:
            raise UserError(
                f'{self.out} is not as it was made, {fault}: remove it and run this again'
            )
        print(f'nothing to do: {_summary(self.out, record)}')
        return True

    def _read_record(self) -> dict:
        path = self.out / RECORD
        if os.path.isfile(path):  # no pipe either, which would wait
            try:
                record = json.loads(path.read_text('utf-8'))
            except (OSError, ValueError, RecursionError):
                record = None
            if _is_record(record):
                return record
        raise UserError(
            f'{self.out} exists and was not made by this command: '
            'move it away, or choose another --out'
        )

    def run(
        self,
        classes: Classes,
        source: Path,
        num_test: Callable[[int], int],
        skip_unreadable: bool = False,
    ) -> None:
        """Split the images and make the folders.

        Args:
            classes (dict): For each class the names and files of its images.
            source (Path): The folder they come from; names in the report are
                relative to it.
            num_test (Callable): From the number of images of a class to the
                number of those for testing.
            skip_unreadable (bool): Leave out images that cannot be read,
                after the split: the others stay where they are without them.

        Raises:
            UserError: For names that no file can have, images that cannot be
                read, an ``out`` inside the source, or one that cannot be
                written.
        """
        check_names(classes, source)
        if source.resolve() in self.out.resolve().parents:
            raise UserError(
                f'{self.out} would be inside the source {source}: choose another --out'
            )
        files = {
            (name, image): path
            for name, images in classes.items()
            for image, path in images.items()
        }
        unreadable, duplicates = inspect_images(list(files.values()))
        if not skip_unreadable:
            refuse_unreadable(
                unreadable, 'get the source again, or leave such images out with --skip-unreadable'
            )

        seed = self.parameters['seed']
        sides: dict[str, dict[str, list[str]]] = {s: {} for s in SIDES}
        side_of: dict[Path, str] = {}
        for name, images in sorted(classes.items()):
            drawn = split_class(list(images), name, seed, num_test(len(images)))
            for side in SIDES:
                readable = [i for i in drawn[side] if images[i] not in unreadable]
                sides[side][name] = readable
                side_of.update((images[i], side) for i in readable)

        def shown(path: Path) -> str:
            return os.path.relpath(path, source)

        record = dict(
            self.parameters,
            source=os.path.abspath(source),
            counts=dict(
                classes=len(classes),
                **{side: sum(map(len, sides[side].values())) for side in SIDES},
            ),
            unreadable={shown(p): reason for p, reason in unreadable.items()},
            duplicates=[[shown(p) for p in group] for group in duplicates],
            **sides,
        )
        self._report(unreadable, duplicates, side_of, shown)
        self._write(files, record)
        print(_summary(self.out, record))

    @staticmethod
    def _report(
        unreadable: dict[Path, str],
        duplicates: list[list[Path]],
        side_of: dict[Path, str],
        shown: Callable,
    ) -> None:
        for path, reason in unreadable.items():
            print(f'left out, cannot be read: {shown(path)} ({reason})')
        for group in duplicates:
            print(
                'identical, kept: '
                + ', '.join(f'{shown(path)} ({side_of[path]})' for path in group)
            )
        across = sum(len({side_of[p] for p in group}) > 1 for group in duplicates)
        if duplicates:
            print(
                f'{len(duplicates)} groups of identical images, '
                f'{across} of them with images on both sides of the split'
            )

    def _write(self, files: dict[tuple[str, str], Path], record: dict) -> None:
        """Build the folders beside ``out``, then rename them."""
        # Where `out` is a link to another disk, that disk.
        target = self.out.resolve()
        building = target.with_name(f'.{target.name}.incomplete')
        place = shutil.copyfile if self.parameters['copy'] else os.symlink
        pairs = [
            (side, name, image)
            for side in SIDES
            for name, images in record[side].items()
            for image in images
        ]
        try:
            # What a killed run has left; it holds nothing of its own.
            if building.exists():
                shutil.rmtree(building)
            for side in SIDES:
                for name in record[side]:
                    (building / side / name).mkdir(parents=True)
            for side, name, image in progress(pairs, 'writing'):
                place(os.path.abspath(files[name, image]), building / side / name / image)
            (building / RECORD).write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
            fault = _first_fault(building, record)
            if fault is not None:
                raise UserError(
                    f'{self.out} was not made, {fault}: was the '
                    'source changed meanwhile? Run this again'
                )
            os.rename(building, target)
        except OSError as error:
            raise UserError(
                f'cannot write {self.out} ({error.strerror or error}): mend '
                'that, or choose another --out'
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _is_record(record: Any) -> bool:
    """Does a ``split.json`` hold what `Conversion.run` writes?"""
    try:
        return (
            isinstance(record['dataset'], str)
            and isinstance(record['source'], str)
            and isinstance(record['unreadable'], dict)
            and {'version', 'seed', 'copy'} <= set(record)
            and all(isinstance(record['counts'][key], int) for key in ('classes', *SIDES))
            and all(
                isinstance(names, list) and all(isinstance(name, str) for name in names)
                for side in SIDES
                for names in record[side].values()
            )
        )
    except (TypeError, KeyError, AttributeError):
        return False


def _first_fault(folder: Path, record: dict) -> str | None:
    """The first file that is missing or that the record does not know."""
    for side in SIDES:
        known = {(name, image) for name, images in record[side].items() for image in images}
        found = set()
        for root, _, names in os.walk(folder / side):
            class_name = os.path.relpath(root, folder / side)
            for name in names:
                # False for a link whose image is gone.
                if os.path.isfile(os.path.join(root, name)):
                    found.add((class_name, name))
        for name, image in sorted(known - found):
            return f'{side}/{name}/{image} is missing or its image is gone'
        for name, image in sorted(found - known):
            return f'{side}/{name}/{image} does not belong there'
    return None


def _summary(out: Path, record: dict) -> str:
    counts = record['counts']
    left_out = (
        f', {len(record["unreadable"])} unreadable ones left out' if record['unreadable'] else ''
    )
    return (
        f'{out} holds {counts["classes"]} classes, {counts["train"]:,} '
        f'images to train on and {counts["test"]:,} to test{left_out}; '
        f'{"copied from" if record["copy"] else "links to"} '
        f'{record["source"]}, split by seed {record["seed"]}'
    )
