"""Folders of images, split into train/ and test/, complete or not there at all.

    OUT/train/CLASS/IMAGE    links to the source's images, or copies
    OUT/test/CLASS/IMAGE
    OUT/split.json           the side of each image, the seed, and what was left out

They are built beside OUT and renamed when they are complete, so OUT is never
half a dataset. One process makes it at a time. The source is only read.
"""

import argparse
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from poslabel_mm.datasets.converters.images import (
    check_names,
    inspect_images,
    progress,
    refuse_unreadable,
)
from poslabel_mm.datasets.converters.record import (
    RECORD,
    SIDES,
    first_fault,
    first_new_image,
    is_record,
    split_class,
    summary,
)
from poslabel_mm.errors import UserError
from poslabel_mm.file_lock import Attempt, file_lock

VERSION = 1

# Class -> name of an image -> its file.
Classes = dict[str, dict[str, Path]]


def num_test_of_a_fifth(count: int) -> int:
    """A fifth of a class, to the nearest whole number."""
    return (count + 2) // 5


class Conversion:
    """A dataset that is being split.

    Args:
        dataset (str): Its name, for the record.
        args (argparse.Namespace): The options of
            :func:`~.arguments.add_split_options`.
        **parameters: What else the result depends on, for the record.
    """

    def __init__(self, dataset: str, args: argparse.Namespace, **parameters: str) -> None:
        self.out = Path(args.out)
        self.skip_unreadable = args.skip_unreadable
        self.parameters = dict(
            dataset=dataset, version=VERSION, seed=args.seed, copy=args.copy, **parameters
        )

    def is_complete(self, classes: Classes | None = None) -> bool:
        """Whether the folder is there already, as this conversion makes it.

        Args:
            classes (dict, optional): The images that the source holds now. Defaults to None,
                where the source cannot have gained any.

        Raises:
            UserError: If ``out`` is something else, was made with other
                parameters, or has lost or gained files since, or the source
                has gained images.
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
        fault = first_fault(self.out, record)
        if fault is not None:
            raise UserError(
                f'{self.out} is not as it was made, {fault}: remove it and run this again'
            )
        new = first_new_image(classes or {}, record)
        if new is not None:
            raise UserError(
                f'{self.out} was made before there was {new} in {record["source"]}: remove '
                f'{self.out} and run this again, or choose another --out'
            )
        print(f'nothing to do: {summary(self.out, record)}')
        return True

    def _read_record(self) -> dict:
        path = self.out / RECORD
        if os.path.isfile(path):  # no pipe either, which would wait
            try:
                record = json.loads(path.read_text('utf-8'))
            except (OSError, ValueError, RecursionError):
                record = None
            if is_record(record):
                return record
        raise UserError(
            f'{self.out} exists and was not made by this command: '
            'move it away, or choose another --out'
        )

    def run(self, classes: Classes, source: Path, num_test: Callable[[int], int]) -> None:
        """Split the images and make the folders.

        Args:
            classes (dict): For each class the names and files of its images.
            source (Path): The folder they come from; names in the report are
                relative to it.
            num_test (Callable): From the number of images of a class to the
                number of those for testing.

        Raises:
            UserError: For names that no file can have, images that cannot be
                read, an ``out`` inside the source, one that cannot be
                written, or one that another process is making.
        """
        check_names(classes, source)
        if source.resolve() in self.out.resolve().parents:
            raise UserError(
                f'{self.out} would be inside the source {source}: choose another --out'
            )
        with self._building_folder() as building:
            # Another process may have made it since it was looked for.
            if not self.is_complete(classes):
                self._run(classes, source, num_test, building)

    @contextmanager
    def _building_folder(self) -> Iterator[Path]:
        """A name beside ``out`` that no other process uses; its folder is removed at the end."""
        # Where `out` is a link to another disk, that disk.
        target = self.out.resolve()
        lock = target.with_name(f'.{target.name}.lock')
        missing = [folder for folder in target.parents if not folder.exists()]
        with suppress(OSError):  # it is tried again where the error is told
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with file_lock(lock, blocking=False) as attempt:
                if attempt is Attempt.TAKEN:
                    raise UserError(
                        f'another process is making {self.out}: wait for it, or choose another '
                        '--out'
                    )
                locked = attempt is Attempt.LOCKED
                # A name that a killed run has left is used again, where that run cannot be alive.
                own = '' if locked else f'.{secrets.token_hex(4)}'
                building = target.with_name(f'.{target.name}{own}.incomplete')
                try:
                    yield building
                finally:
                    shutil.rmtree(building, ignore_errors=True)
                    # Of a file that cannot be opened another user may hold the lock.
                    if locked or os.access(lock, os.W_OK):
                        with suppress(OSError):  # another host may have removed it
                            lock.unlink()
        finally:
            with suppress(OSError):  # of a conversion that was refused nothing is left
                for folder in missing:
                    folder.rmdir()

    def _run(
        self, classes: Classes, source: Path, num_test: Callable[[int], int], building: Path
    ) -> None:
        files = {
            (name, image): path
            for name, images in classes.items()
            for image, path in images.items()
        }
        unreadable, duplicates = inspect_images(list(files.values()))
        # They are left out after the split, so the others are where they are without it.
        if not self.skip_unreadable:
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
        self._write(files, record, building)
        print(summary(self.out, record))

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

    def _write(self, files: dict[tuple[str, str], Path], record: dict, building: Path) -> None:
        """Build the folders in ``building``, then rename it."""
        place = shutil.copyfile if self.parameters['copy'] else os.symlink
        pairs = [
            (side, name, image)
            for side in SIDES
            for name, images in record[side].items()
            for image in images
        ]
        try:
            # A killed run has left it.
            if building.exists():
                shutil.rmtree(building)
            for side in SIDES:
                for name in record[side]:
                    (building / side / name).mkdir(parents=True)
            for side, name, image in progress(pairs, 'writing'):
                place(os.path.abspath(files[name, image]), building / side / name / image)
            (building / RECORD).write_text(json.dumps(record, indent=1) + '\n', 'utf-8')
            fault = first_fault(building, record)
            if fault is not None:
                raise UserError(
                    f'{self.out} was not made, {fault}: was the '
                    'source changed meanwhile? Run the command again'
                )
            try:
                os.rename(building, self.out.resolve())
            except OSError as error:
                # The lock does not reach every process, where there is one.
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    raise UserError(
                        f'another process made {self.out} meanwhile: run the command again, which '
                        'compares it with the source'
                    ) from error
                raise
        except OSError as error:
            raise UserError(
                f'cannot write {self.out} ({error.strerror or error}): choose another --out, or '
                'make this one writable'
            ) from error
