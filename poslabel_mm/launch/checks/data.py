"""Checks of a run's data, before the run makes anything."""

import os.path as osp

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from poslabel_mm import options
from poslabel_mm.datasets.class_folders import class_names, count_by_class, count_images, read_list
from poslabel_mm.datasets.sources import IMAGENET
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.batches import check_batches
from poslabel_mm.launch.checks.class_names import LOADERS
from poslabel_mm.launch.checks.classes import Labels, check_classes, source_named
from poslabel_mm.launch.checks.dataset_files import ImageFiles, datasets_of
from poslabel_mm.stack.checkpoint_file import read


def check_data(cfg: Config, loaders: tuple[str, ...], checkpoint: str | None = None) -> None:
    """Check that the folders and lists of image datasets exist and fit the model.

    Where class folders give the labels, all loaders must have the same classes, and
    the model must have as many. A user's own dataset may have fewer, for a head that
    is larger on purpose.

    Args:
        cfg (Config): A complete config.
        loaders (tuple[str]): Which of its data loaders are used.
        checkpoint (str, optional): The checkpoint that is tested: the folders must have its
            classes. Defaults to None.

    Raises:
        UserError: If a file or folder is missing or a folder has no image, with its path, its
            key in the config, what is expected and, for a dataset of the shipped configs, how to
            prepare it. If a symbolic link is a loop. If the classes differ between the loaders
            or from the model's. If a loader that drops its last batch has no other.
    """
    # For names without a prefix, such as `type='ImageNet'`.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    labels: list[Labels] = []
    sizes: dict[str, int] = {}
    counts: dict[tuple, dict[str, int]] = {}
    for loader in loaders:
        for key, dataset in datasets_of(cfg, loader):
            size, of_dataset = check_dataset(cfg, key, dataset, counts)
            if size is not None:
                sizes[key] = size
            if of_dataset is not None:
                labels.append(of_dataset)
    if 'train_dataloader' not in loaders:
        labels = (_labels_in(checkpoint, cfg, labels) or _training_labels(cfg)) + labels
    check_classes(cfg, labels, loaders)
    for loader in loaders:
        if cfg.get(loader) is not None:
            check_batches(cfg, loader, sizes)


def check_dataset(
    cfg: Config, key: str, dataset: dict, counts: dict[tuple, dict[str, int]]
) -> tuple[int | None, Labels | None]:
    """Check that the folder or the list of one dataset exists.

    Args:
        cfg (Config): The config that it is in.
        key (str): Its key there.
        dataset (dict): Its config.
        counts (dict[tuple, dict[str, int]]): The images of the folders that were counted before;
            is added to.

    Returns:
        tuple: Its number of images and its labels, each None where it is unknown.

    Raises:
        UserError: As of :func:`check_data`.
    """
    from poslabel_mm.datasets import FashionMNIST, FashionMNISTScenes

    files = ImageFiles(dataset)
    kind = files.kind
    if kind is FashionMNIST and not dataset.get('download'):
        kind.find_files(**{key: dataset[key] for key in ('data_root', 'split') if key in dataset})
    if kind is FashionMNISTScenes:
        with options.within(key):
            DATASETS.build(dict(dataset, pipeline=[], lazy_init=True))
    if not files.is_custom or not files.is_local:
        return None, None
    root, folder, ann_file = files.root, files.folder, files.ann_file
    if ann_file and not osp.isfile(ann_file):
        raise UserError(f'annotation file {ann_file} ({key}.ann_file) does not exist')

    example = osp.join(folder, '<class>' if files.by_class else '', '<image>.JPEG')
    source = IMAGENET if files.is_imagenet else source_named(root)
    advice = 'put the data (or a link to it) there' if source is None else source.advice
    elsewhere = _root_options(cfg, dataset) or f'{key}.data_root=...'  # of a hook
    way_out = f'expected {example}; {advice}, or set --cfg-options {elsewhere}'
    missing = next((path for path in (root, folder) if path and not osp.isdir(path)), None)
    if missing is not None:
        raise UserError(f'data folder {osp.normpath(missing)} ({key}) does not exist: {way_out}')
    if ann_file:
        listed = read_list(ann_file, files.with_label)
        return listed.size, Labels(
            key, root, ann_file, elsewhere, listed.label_of, labels=frozenset(listed.labels)
        ) if files.with_label else None
    which = folder, files.by_class, files.extensions
    if which not in counts:
        counts[which] = (
            count_by_class(folder, files.extensions)
            if files.by_class
            else {'': count_images(folder, files.extensions)}
        )
    images = counts[which]
    if not any(images.values()):
        raise UserError(f'data folder {folder} ({key}) holds no images: {way_out}')
    return sum(images.values()), Labels(
        key,
        root,
        folder,
        elsewhere,
        {name: label for label, name in enumerate(images)},
        images,
        num_names=None if files.names is None else len(files.names),
        kind=kind.__name__,
        num_built_in=len(files.built_in) if files.built_in else None,
    ) if files.by_class else None


def _labels_in(checkpoint: str | None, cfg: Config, datasets: list[Labels]) -> list[Labels]:
    """The classes that MMEngine saved in a checkpoint, if class folders named them."""
    several = [ImageFiles(dataset) for _, dataset in datasets_of(cfg, 'train_dataloader')]
    if (
        checkpoint is None
        or '://' in checkpoint
        or any(files.is_custom and files.names for files in several)
    ):
        return []  # names from the config need not be in the order of the folders
    try:
        content = read(checkpoint, 'cpu', mmap=True)
        names = content['meta']['dataset_meta']['classes']
        label_of = {str(name): label for label, name in enumerate(names)}
    except (UserError, KeyError, TypeError, IndexError):
        return []  # a file that is no checkpoint is refused by a later check
    found = {name for dataset in datasets if not dataset.num_names for name in dataset.label_of}
    if not found & set(label_of):
        return []  # such as ImageNet's names, whose folders are called by numbers
    return [Labels('meta.dataset_meta.classes', '', checkpoint, '', label_of)]


def _training_labels(cfg: Config) -> list[Labels]:
    """The labels of the training data, if its folder exists."""
    for key, dataset in datasets_of(cfg, 'train_dataloader'):
        files = ImageFiles(dataset)
        if files.is_custom and files.is_local and files.by_class and osp.isdir(files.folder):
            names = class_names(files.folder)
            return [
                Labels(
                    key,
                    files.root,
                    files.folder,
                    _root_options(cfg, dataset),
                    {name: label for label, name in enumerate(names)},
                )
            ]
    return []


def _root_options(cfg: Config, dataset: dict) -> str:
    """The options that change the root of every dataset with the same root as this one."""
    root = dataset.get('data_root')
    return ' '.join(
        f'{key}.data_root=...'
        for loader in LOADERS
        for key, other in datasets_of(cfg, loader)
        if other.get('data_root') == root
    )
