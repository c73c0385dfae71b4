"""Is the data of the config where it says? Found out before a run begins."""
import json
import os
import os.path as osp
from pathlib import Path
from typing import Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from poslabel_mm import config_prefix
from poslabel_mm.dataset_sources import IMAGENET, SOURCES, Source
from poslabel_mm.errors import UserError

Leaf = Tuple[str, dict]

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def check_data(cfg: Config, loaders: Tuple[str, ...]) -> None:
    """Check that the folders and lists of image datasets are there.

    Where class folders give the labels, there must not be more of them than
    the model has classes. A dataset of the paper must not have fewer either;
    a user's own may, for a head that is larger on purpose.

    Args:
        cfg (Config): A complete config.
        loaders (tuple[str]): Which of its data loaders are used.

    Raises:
        UserError: If a folder is missing or has no image, or a file is
            missing: its path, the config key, what is expected and, of a
            dataset of the shipped configs, how to prepare it. If it holds
            another number of classes: both numbers.
    """
    # For names without a prefix, such as `type='ImageNet'`.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for loader in loaders:
        if cfg.get(loader) is not None:
            for key, dataset in _leaves(f'{loader}.dataset',
                                        cfg[loader].dataset):
                _check_dataset(cfg, key, dataset)


def _leaves(key: str, dataset: dict) -> Iterator[Leaf]:
    """The datasets inside wrappers such as RepeatDataset, ConcatDataset."""
    if 'dataset' in dataset:
        yield from _leaves(f'{key}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from _leaves(f'{key}.datasets.{i}', inner)
    else:
        yield key, dataset


def _check_dataset(cfg: Config, key: str, dataset: dict) -> None:
    from mmpretrain.datasets import CustomDataset, ImageNet

    from poslabel_mm.datasets import FashionMNIST
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(
                dataset.get('_scope_')) as registry:
            kind = registry.get(kind)
    if kind is FashionMNIST and not dataset.get('download'):
        kind.find_files(**{key: dataset[key] for key in ('data_root', 'split')
                           if key in dataset})
    # Other datasets have layouts of their own and may download themselves.
    if not (isinstance(kind, type) and issubclass(kind, CustomDataset)):
        return
    root = osp.expanduser(dataset.get('data_root') or '')
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path') or ''
    folder = osp.join(root, osp.expanduser(prefix))
    if '://' in folder or not folder:
        return
    folder = osp.normpath(folder)
    ann_file = dataset.get('ann_file') or ''
    if issubclass(kind, ImageNet) and not ann_file and dataset.get('split'):
        listed = osp.join(root, 'meta', f'{dataset["split"]}.txt')
        ann_file = listed if osp.isfile(listed) else ''
    elif ann_file:
        ann_file = osp.join(root, osp.expanduser(ann_file))
        if not osp.isfile(ann_file):
            raise UserError(f'annotation file {ann_file} ({key}.ann_file) '
                            'does not exist')

    with_label = dataset.get('with_label', True)
    if dataset.get('split') == 'test' and issubclass(kind, ImageNet):
        with_label = False
    by_class = with_label and not ann_file
    example = osp.join(folder, '<class>' if by_class else '', '<image>.JPEG')
    source = IMAGENET if issubclass(kind, ImageNet) else _source_of(root)
    advice = ('put the data (or a link to it) there'
              if source is None else source.advice)
    elsewhere = f'--cfg-options {_root_options(cfg, dataset)}'
    way_out = f'expected {example}; {advice}, or set {elsewhere}'
    missing = next((path for path in (root, folder)
                    if path and not osp.isdir(path)), None)
    if missing is not None:
        raise UserError(f'data folder {osp.normpath(missing)} ({key}) does not '
                        f'exist: {way_out}')
    extensions = dataset.get('extensions') or getattr(
        kind, 'IMG_EXTENSIONS', None)
    if not ann_file and not _has_file(folder, by_class, extensions):
        raise UserError(f'data folder {folder} ({key}) holds no images: '
                        f'{way_out}')
    if by_class:
        fault = _wrong_classes(cfg, kind, dataset, root, folder)
        if fault is not None:
            raise UserError(f'data folder {folder} ({key}) {fault}: set '
                            f'{elsewhere} to the right folder, or take a '
                            'config of as many classes')


def _root_options(cfg: Config, dataset: dict) -> str:
    """The options that move everything with this dataset's root elsewhere."""
    root = dataset.get('data_root')
    return ' '.join(f'{key}.data_root=...' for loader in LOADERS
                    if cfg.get(loader) is not None
                    for key, other in _leaves(f'{loader}.dataset',
                                              cfg[loader].dataset)
                    if other.get('data_root') == root)


def _wrong_classes(cfg: Config, kind: type, dataset: dict, root: str,
                   folder: str) -> Optional[str]:
    """What is wrong with the number of class folders, if anything."""
    if dataset.get('classes') or (dataset.get('metainfo') or {}).get('classes'):
        return None  # MMPretrain holds the folders against this list
    with os.scandir(folder) as entries:  # hidden ones too, as in MMPretrain
        found = sum(entry.is_dir() for entry in entries)
    names = kind.METAINFO.get('classes')
    if names:  # as ImageNet's own; MMPretrain accepts no other number
        expected, whose = len(names), kind.__name__
    else:
        head = cfg.get('model', {}).get('head')
        expected = head.get('num_classes') if isinstance(head, dict) else None
        whose = 'model.head.num_classes'
    if not expected or expected < 0 or found == expected:
        return None
    source = _converted_to(osp.dirname(folder))
    if found < expected and not (names or source or _source_of(root)
                                 or _is_shipped(cfg)):
        return None
    which = '' if source is None else f' of {source.title}'
    return f'holds {found:,} classes{which} and not {expected:,} ({whose})'


def _converted_to(root: str) -> Optional[Source]:
    """The dataset that the converters recorded in ``split.json``."""
    try:
        with open(osp.join(root, 'split.json'), encoding='utf-8') as file:
            return _source_of(json.load(file)['dataset'])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_shipped(cfg: Config) -> bool:
    """Is this an experiment of the paper, and not a config made from one?"""
    return bool(cfg.filename) and (
        config_prefix.ROOT in Path(cfg.filename).resolve().parents)


def _source_of(root: str) -> Optional[Source]:
    """The dataset that a folder is named after."""
    name = osp.basename(osp.normpath(root))
    return next((source for source in SOURCES
                 if osp.basename(source.folder) == name), None)


def _has_file(folder: str, by_class: bool,
              extensions: Optional[Tuple[str, ...]]) -> bool:
    extensions = tuple(extensions or ('.jpg', '.jpeg', '.png', '.ppm', '.bmp',
                                      '.pgm', '.tif'))
    for where, _, names in os.walk(folder, followlinks=True):
        if by_class and osp.samefile(where, folder):
            continue
        # False for a link whose image is gone.
        if any(name.lower().endswith(extensions)
               and osp.isfile(osp.join(where, name)) for name in names):
            return True
    return False
