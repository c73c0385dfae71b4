"""Checks that class folders, lists and the model agree on the classes."""

import json
import os.path as osp
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import MODELS

from poslabel_mm.datasets.class_folders import is_no_class
from poslabel_mm.datasets.sources import SOURCES, Source
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.options import counted_classes
from poslabel_mm.stack import config_prefix

HEAD = 'model.head.num_classes'


class Labels(NamedTuple):
    """Where the labels of a dataset come from.

    Args:
        key (str): The dataset's key in the config.
        root (str): Its ``data_root``.
        where (str): The folder of the class folders, or the list of images.
        elsewhere (str): The options that move the data.
        label_of (dict[str, int]): The label of each class; empty where a
            list does not name the classes.
        images (dict[str, int], optional): The number of images in each class
            folder; None for a list, or where they were not counted.
        labels (set[int]): The labels that occur in a list.
        num_names (int, optional): The number of class names in the config.
        kind (str): The dataset's type.
        num_built_in (int, optional): The number of class names that the type
            itself has.
    """

    key: str
    root: str
    where: str
    elsewhere: str
    label_of: dict[str, int]
    images: dict[str, int] | None = None
    labels: frozenset[int] = frozenset()
    num_names: int | None = None
    kind: str = ''
    num_built_in: int | None = None

    @property
    def by_folder(self) -> bool:
        return not self.labels


class Fault(NamedTuple):
    """A fault of a dataset and its remedy, as parts of a sentence."""

    what: str
    mend: str


def check_classes(cfg: Config, datasets: list[Labels], loaders: tuple[str, ...]) -> None:
    """Check that the folders that give labels are the model's classes.

    A dataset of the paper must have exactly as many as the model; a user's own dataset
    may have fewer, for a head that is larger on purpose.

    Args:
        cfg (Config): A complete config.
        datasets (list[Labels]): The training data first.
        loaders (tuple[str]): Which of the config's data loaders are used.

    Raises:
        UserError: If a folder is no class, if a class has different labels in two datasets or is
            missing in one, or if the number of classes differs from the model's; with the
            options to set.
    """
    head = _head_classes(cfg)
    learns_labels = not _is_a(cfg, 'BaseSelfSupervisor')
    compared = learns_labels and not _is_a(cfg, 'BaseRetriever')
    counted = [dataset for dataset in datasets if dataset.images is not None]
    numbers = {
        dataset.key: _wrong_number(cfg, dataset, loaders, learns_labels) for dataset in counted
    }
    known = [dataset for dataset in datasets if compared and _is_known(dataset, head)]
    differences = {dataset.key: _difference(known[0], dataset) for dataset in known[1:]}
    faulty = any(numbers.values()) or any(differences.values())
    filled = {name for dataset in counted for name, images in dataset.images.items() if images}
    for dataset in counted:
        for name in dataset.images:
            if is_no_class(name) and (learns_labels or faulty):
                reason = 'is none'
            elif name not in filled and faulty:
                reason = 'holds no images'
            else:
                continue
            raise UserError(
                f'folder {osp.join(dataset.where, name)} ({dataset.key}) would be '
                f'counted as a class but {reason}: remove it'
            )
    for dataset in datasets:
        _refuse(dataset, numbers.get(dataset.key), differences.get(dataset.key))
    for dataset in datasets:
        if learns_labels and head and dataset.labels and max(dataset.labels) >= head:
            raise UserError(
                f'{dataset.where} ({dataset.key}) has label {max(dataset.labels)}, and the '
                f'labels of {head:,} classes ({HEAD}) are 0 to {head - 1}: number its classes '
                'from 0, or set ' + _count_options(cfg, loaders, max(dataset.labels) + 1)
            )


def _head_classes(cfg: Config) -> int | None:
    head = (cfg.get('model') or {}).get('head')
    count = head.get('num_classes') if isinstance(head, dict) else None
    return count if isinstance(count, int) and count > 0 else None


def _is_a(cfg: Config, base: str) -> bool:
    """Whether the model is a subclass of this class of MMPretrain."""
    from mmpretrain import models

    model = cfg.get('model') or {}
    kind = model.get('type')
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(model.get('_scope_')) as registry:
            kind = registry.get(kind)
    return isinstance(kind, type) and issubclass(kind, getattr(models, base))


def _refuse(dataset: Labels, number: Fault | None, difference: Fault | None) -> None:
    """Raise an error if the number or the names of the classes are wrong."""
    moving = f'set --cfg-options {dataset.elsewhere} to the right folder'
    if number and difference:
        # Changing the number of the model's classes would not help.
        line = f'{number.what}: {moving}, or {difference.mend}: it {difference.what}'
    elif number or difference:
        fault = number or difference
        line = f'{fault.what}: {fault.mend}, or {moving}'
    else:
        return
    raise UserError(
        f'{"data folder" if dataset.by_folder else "list"} {dataset.where} ({dataset.key}) {line}'
    )


def _is_known(dataset: Labels, head: int | None) -> bool:
    """Whether the labels are known and are this model's.

    Training data that a test only looks up may be of another model.
    """
    looked_up = dataset.by_folder and dataset.images is None
    return bool(dataset.label_of) and (not looked_up or head in (None, len(dataset.label_of)))


def _difference(first: Labels, dataset: Labels) -> Fault | None:
    """The first difference between the classes of two datasets, if there is one."""
    same_loader = dataset.key.split('.')[0] == first.key.split('.')[0]
    if first.by_folder and dataset.by_folder and not same_loader:
        there = f'{first.where} ({first.key})'
        lacking = [name for name in first.label_of if name not in dataset.label_of]
        if lacking:
            return Fault(
                f'lacks {_list_classes(lacking)} of {there}, and labels count the folders',
                'make an empty folder for each class without images',
            )
        extra = [name for name in dataset.label_of if name not in first.label_of]
        if extra:
            return Fault(
                f'has {_list_classes(extra)}, not in {there}, and labels count the folders',
                'remove what is no class',
            )
    for name, label in dataset.label_of.items():
        if first.label_of.get(name, label) != label:
            return Fault(
                f'gives class {name} label {label}, and {first.where} ({first.key}) '
                f'gives it {first.label_of[name]}',
                'number the classes in the order of the sorted names of the class folders',
            )
    return None


def _list_classes(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    if len(names) == 1:
        return f'class {names[0]}'
    more = f' and {len(names) - 3:,} more' if len(names) > 3 else ''
    return f'the classes {", ".join(names[:3])}{more}'


def _wrong_number(
    cfg: Config, dataset: Labels, loaders: tuple[str, ...], learns_labels: bool
) -> Fault | None:
    """The fault of the number of class folders, if there is one."""
    found = len(dataset.label_of)
    head = _head_classes(cfg) if learns_labels else None
    source = source_made_in(osp.dirname(dataset.where))
    holds = f'holds {found:,} classes{"" if source is None else f" of {source.title}"} and not '
    built_in = None if dataset.num_names else dataset.num_built_in
    if dataset.num_names not in (None, found):  # MMPretrain asserts that
        return Fault(
            f'{holds}{dataset.num_names:,} ({dataset.key}.classes)', 'name each of them there'
        )
    if head is None:
        if built_in in (None, found):
            return None
        return Fault(
            f'{holds}{built_in:,} ({dataset.kind})',
            f'to pre-train on a part of it set --cfg-options {dataset.key}.with_label=False',
        )
    if found == head or (
        found < head and not (built_in or source or source_named(dataset.root) or _is_shipped(cfg))
    ):
        return None
    return Fault(
        f'{holds}{head:,} ({HEAD})',
        f'set {_count_options(cfg, loaders, found)} for a model of as many',
    )


def _count_options(cfg: Config, loaders: tuple[str, ...], count: int) -> str:
    """The options that make a model of so many classes."""
    keys = [HEAD] + [key for key, value in counted_classes(cfg, loaders) if value != count]
    return '--cfg-options ' + ' '.join(f'{key}={count}' for key in keys)


def source_made_in(root: str) -> Source | None:
    """The dataset that a converter recorded in ``split.json`` of a folder, if one did."""
    path = osp.join(root, 'split.json')
    if not osp.isfile(path):
        return None
    try:
        with open(path, encoding='utf-8') as file:
            return source_named(json.load(file)['dataset'])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def source_named(root: str) -> Source | None:
    """The dataset that a folder is named after."""
    name = osp.basename(osp.normpath(root))
    return next((source for source in SOURCES if osp.basename(source.folder) == name), None)


def _is_shipped(cfg: Config) -> bool:
    """Whether a config is a shipped one, and not a config that inherits from one."""
    return bool(cfg.filename) and (config_prefix.ROOT in Path(cfg.filename).resolve().parents)
