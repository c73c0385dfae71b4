"""The split file ``split.json``: the images of each class on each side of the split."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RECORD = 'split.json'
SIDES = ('train', 'test')


def split_class(
    names: list[str], class_name: str, seed: int, num_test: int
) -> dict[str, list[str]]:
    """Draw the test images of a class.

    Whether an image is drawn depends on the seed and the names alone: on no
    order of files and no random generator.

    Args:
        names (list[str]): The images of the class.
        class_name (str): Its name.
        seed (int): The seed of the split.
        num_test (int): The number of test images.

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


def is_record(record: Any) -> bool:
    """Whether the content of a ``split.json`` has the form that a conversion writes."""
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


def first_fault(folder: Path, record: dict) -> str | None:
    """The first file that is missing, or that the record does not list; None if all is right."""
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


def first_new_image(classes: dict[str, Iterable[str]], record: dict) -> str | None:
    """The first image of a source that its record does not list; None if it lists all."""
    known = {
        os.path.join(name, image)
        for side in SIDES
        for name, images in record[side].items()
        for image in images
    } | set(record['unreadable'])
    found = {os.path.join(name, image) for name, images in classes.items() for image in images}
    return min(found - known, default=None)


def summary(out: Path, record: dict) -> str:
    """Describe a finished split in one line."""
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
