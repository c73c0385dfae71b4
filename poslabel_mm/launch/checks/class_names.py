"""The names that class folders give to the classes of a dataset."""

import os.path as osp

from mmengine.config import Config
from mmengine.registry import init_default_scope

from poslabel_mm.datasets.class_folders import class_names
from poslabel_mm.launch.checks.dataset_files import ImageFiles, datasets_of

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def name_classes(cfg: Config) -> None:
    """Set the class names of datasets that hold some of the classes of their type.

    MMPretrain's ``ImageNet`` accepts fewer than its 1,000 class folders only if
    its ``classes`` are given.

    Args:
        cfg (Config): A config whose data was checked; its datasets get ``classes``.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for loader in LOADERS:
        for _, dataset in datasets_of(cfg, loader):
            files = ImageFiles(dataset)
            if (
                files.is_custom
                and files.by_class
                and files.names is None
                and files.built_in
                and osp.isdir(files.folder)
            ):
                found = class_names(files.folder)
                if len(found) != len(files.built_in):
                    dataset['classes'] = found
