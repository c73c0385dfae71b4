"""``--data DIR``: train or test a config on the class folders of one directory.

The directory holds ``train/<class>/<image>`` and ``test/`` or ``val/`` beside it, as
``poslabel convert folder`` makes it. The number of classes is read from it.
"""

import os.path as osp
import shlex
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from poslabel_mm.datasets.class_folders import class_names
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.class_names import LOADERS
from poslabel_mm.launch.checks.classes import HEAD
from poslabel_mm.launch.checks.dataset_files import ImageFiles, datasets_of
from poslabel_mm.launch.checks.options import counted_classes, metrics_of, ranks_classes

# Datasets call their held-out images by either name.
OTHER_NAME = {'val': 'test', 'test': 'val'}


def use_data(
    cfg: Config,
    name: str,
    folder: str | None,
    loaders: tuple[str, ...],
    called: str = '--data',
) -> None:
    """Move a config's datasets to the folder of ``--data``, and count its classes.

    Args:
        cfg (Config): The config.
        name (str): What messages call the config.
        folder (str, optional): The folder. Without one nothing changes.
        loaders (tuple[str]): Which of the config's data loaders are used.
        called (str): What messages call the folder. Defaults to '--data'.

    Raises:
        UserError: If the folder cannot be used, or the config has no place for it.
    """
    if folder is None:
        return
    shown = f'{called} {folder}'
    # For names without a prefix, such as `type='ImageNet'`.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    found = {key: data for loader in LOADERS for key, data in datasets_of(cfg, loader)}
    rooted = {key: data for key, data in found.items() if data.get('data_root')}
    if not rooted:
        raise UserError(f'{shown} has no place in {name}: its datasets have no data_root')
    if len({osp.normpath(data['data_root']) for data in rooted.values()}) > 1:
        options = ' '.join(f'{key}.data_root=...' for key in rooted)
        raise UserError(
            f'{shown} is one folder, and {name} reads several: set each, --cfg-options {options}'
        )
    if not osp.isdir(folder):
        raise UserError(f'{shown} is no folder')
    for data in rooted.values():
        data['data_root'] = folder
        _use_other_name(data, folder)
    if isinstance(cfg.get('data_root'), str):
        cfg.data_root = folder  # which the config set the others from
    for loader in loaders:
        _check_layout(cfg, loader, folder, shown)
    _count_classes(cfg, loaders, shown)


def _use_other_name(data: dict[str, Any], folder: str) -> None:
    """Let ``test/`` be what a config calls ``val/``, or the reverse, where that is there."""
    place = ImageFiles(data)
    if not place.is_custom or place.ann_file or osp.isdir(place.folder):
        return
    side = osp.basename(place.folder)
    other = OTHER_NAME.get(side)
    if other and place.folder == osp.normpath(osp.join(folder, side)):
        if osp.isdir(osp.join(folder, other)):
            data['data_prefix'] = other


def _check_layout(cfg: Config, loader: str, folder: str, shown: str) -> None:
    for _, data in datasets_of(cfg, loader):
        place = ImageFiles(data)
        if place.is_custom and place.is_local and not osp.isdir(place.folder):
            raise UserError(
                f'{shown} has no {osp.relpath(place.folder, folder)}/: expected '
                f'{osp.join(folder, "{train,test}", "<class>", "<image>")}; of class folders '
                f'`poslabel convert folder {shlex.quote(folder)} --out data/mine` makes that'
            )


def _count_classes(cfg: Config, loaders: tuple[str, ...], shown: str) -> None:
    """Set the number of classes to the number of class folders to train on.

    A test takes its own folders where the training data is not there.
    """
    place = _labelled_place(cfg, loaders)
    if place is None:
        return
    names = class_names(place.folder)
    head = cfg.model.get('head')
    if not (isinstance(head, dict) and head.get('num_classes')):
        _without_labels(cfg, len(names))
        return
    if len(names) == 1:
        raise UserError(
            f'{shown} holds a single class, {names[0]}: expected two or more in {place.folder}'
        )
    keys = [HEAD, *(key for key, _ in counted_classes(cfg, LOADERS))]
    if 'num_classes' in (cfg.get('data_preprocessor') or {}):
        keys.append('data_preprocessor.num_classes')
    cfg.merge_from_dict(dict.fromkeys(keys, len(names)))
    for _, metric in metrics_of(cfg, LOADERS):
        if not ranks_classes(metric):
            continue
        topk = metric.get('topk') or ()
        asked = (topk,) if isinstance(topk, int) else topk
        if any(k > len(names) for k in asked):
            metric['topk'] = tuple(k for k in asked if k <= len(names)) or (1,)


def _labelled_place(cfg: Config, loaders: tuple[str, ...]) -> ImageFiles | None:
    """The first class folders that give labels; other checks refuse data without any."""
    for loader in dict.fromkeys(('train_dataloader', *loaders)):
        for _, data in datasets_of(cfg, loader):
            place = ImageFiles(data)
            if place.is_custom and place.is_local and place.by_class:
                if osp.isdir(place.folder) and class_names(place.folder):
                    return place
    return None


def _without_labels(cfg: Config, count: int) -> None:
    """Let pre-training, which needs no labels, take a dataset of other classes."""
    for _, data in datasets_of(cfg, 'train_dataloader'):
        place = ImageFiles(data)
        if place.is_custom and place.built_in and len(place.built_in) != count:
            data['with_label'] = False
