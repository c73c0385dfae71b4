"""The datasets of a config, and the files that each of them reads."""

import os.path as osp
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.registry import DATASETS

from poslabel_mm.datasets.class_folders import IMAGE_EXTENSIONS


def datasets_of(cfg: Config, loader: str) -> list[tuple[str, dict]]:
    """The datasets of a loader, those inside of wrappers such as ConcatDataset.

    Args:
        cfg (Config): A complete config; it may lack the loader.
        loader (str): Key of the loader.

    Returns:
        list[tuple[str, dict]]: The key of each dataset in the config, and its config.
    """
    if cfg.get(loader) is None:
        return []
    return list(_leaves(f'{loader}.dataset', cfg[loader].dataset))


def _leaves(key: str, dataset: dict) -> Iterator[tuple[str, dict]]:
    if 'dataset' in dataset:
        yield from _leaves(f'{key}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from _leaves(f'{key}.datasets.{i}', inner)
    else:
        yield key, dataset


class ImageFiles:
    """Where MMPretrain's CustomDataset, as a config describes it, reads images and labels.

    Args:
        dataset (dict): The config of a dataset.

    Attributes:
        kind (type): The dataset's class.
        is_custom (bool): Whether it is a CustomDataset. Others have layouts of their own and may
            download themselves: all that follows is missing then.
        is_imagenet (bool): Whether it is MMPretrain's ImageNet.
        root (str): The folder that other paths are relative to; may be empty.
        is_local (bool): Whether the images are in a folder, and not on a server.
        folder (str): The folder of the images or of the class folders.
        ann_file (str): The list of images; empty if there is none.
        with_label (bool): Whether the images have labels.
        by_class (bool): Whether class folders give the labels.
        extensions (tuple[str]): How the names of images end, in lower case.
        names (list[str] | None): The class names that the config gives.
        built_in (list[str] | None): The class names that the dataset's class has.
    """

    def __init__(self, dataset: dict) -> None:
        from mmpretrain.datasets import CustomDataset, ImageNet

        kind = dataset.get('type')
        if isinstance(kind, str):
            with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
                kind = registry.get(kind)
        self.kind = kind
        self.is_custom = isinstance(kind, type) and issubclass(kind, CustomDataset)
        if not self.is_custom:
            return
        self.is_imagenet = issubclass(kind, ImageNet)
        split = dataset.get('split')
        self.root = osp.expanduser(dataset.get('data_root') or '')
        prefix = dataset.get('data_prefix') or split or ''
        if isinstance(prefix, dict):
            prefix = prefix.get('img_path') or ''
        folder = osp.join(self.root, osp.expanduser(prefix))
        self.is_local = bool(folder) and '://' not in folder
        self.folder = osp.normpath(folder)
        self.ann_file = ''
        if dataset.get('ann_file'):
            self.ann_file = osp.join(self.root, osp.expanduser(dataset['ann_file']))
        elif self.is_imagenet and split:
            listed = osp.join(self.root, 'meta', f'{split}.txt')
            self.ann_file = listed if osp.isfile(listed) else ''
        self.with_label = dataset.get('with_label', True) and not (
            self.is_imagenet and split == 'test'
        )
        self.by_class = self.with_label and not self.ann_file
        self.extensions = tuple(
            text.lower()
            for text in dataset.get('extensions')
            or getattr(kind, 'IMG_EXTENSIONS', IMAGE_EXTENSIONS)
        )
        self.names = _given_names(dataset)
        self.built_in = kind.METAINFO.get('classes')


def _given_names(dataset: dict) -> list[str] | None:
    """The class names that a config gives, itself or in a file that it names."""
    names = (dataset.get('metainfo') or {}).get('classes') or dataset.get('classes')
    if isinstance(names, str):
        try:
            with open(osp.expanduser(names), encoding='utf-8') as file:
                return file.read().splitlines()
        except (OSError, UnicodeDecodeError):
            return None  # MMPretrain raises a clear error
    return list(names) if names else None
