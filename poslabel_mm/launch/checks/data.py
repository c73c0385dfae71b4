"""Is the data of the config where it says? Found out before a run begins."""

import copy
import os
import os.path as osp
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from poslabel_mm.datasets.class_folders import class_names, count_by_class, count_images, read_list
from poslabel_mm.datasets.sources import IMAGENET
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.classes import Labels, check_classes, source_named
from poslabel_mm.stack.checkpoint_file import read

Leaf = tuple[str, dict]

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
WORLD_SIZES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def check_data(cfg: Config, loaders: tuple[str, ...], checkpoint: str | None = None) -> None:
    """Check that the folders and lists of image datasets are there.

    Where class folders give the labels, all loaders must have the same, and
    the model must have as many classes. A user's own dataset may have fewer,
    for a head that is larger on purpose.

    Args:
        cfg (Config): A complete config.
        loaders (tuple[str]): Which of its data loaders are used.
        checkpoint (str, optional): A checkpoint that is to be tested, whose
            classes the folders must have. Defaults to None.

    Raises:
        UserError: If a folder is missing or has no image, or a file is
            missing: its path, the config key, what is expected and, of a
            dataset of the shipped configs, how to prepare it. If a symbolic
            link is a loop. If classes differ between the loaders or from the
            model's: their names or numbers. If a loader that drops its last
            batch has no other.
    """
    # For names without a prefix, such as `type='ImageNet'`.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    labels: list[Labels] = []
    sizes: dict[str, int] = {}
    counts: dict[tuple, dict[str, int]] = {}
    for loader in loaders:
        for key, dataset in _datasets(cfg, loader):
            size, of_dataset = _check_dataset(cfg, key, dataset, counts)
            if size is not None:
                sizes[key] = size
            if of_dataset is not None:
                labels.append(of_dataset)
    if 'train_dataloader' not in loaders:
        labels = (_labels_in(checkpoint, cfg, labels) or _training_labels(cfg)) + labels
    check_classes(cfg, labels, loaders)
    for loader in loaders:
        if cfg.get(loader) is not None:
            _check_batches(cfg, loader, sizes)


def name_classes(cfg: Config) -> None:
    """Let class folders name the classes of a part of a dataset.

    MMPretrain's ``ImageNet`` takes a part of its 1,000 class folders only if
    its ``classes`` are given.

    Args:
        cfg (Config): A config whose data was checked; it gets ``classes``.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for loader in LOADERS:
        for _, dataset in _datasets(cfg, loader):
            place = _Place(dataset)
            if (
                place.is_custom
                and place.by_class
                and place.names is None
                and place.built_in
                and osp.isdir(place.folder)
            ):
                found = class_names(place.folder)
                if len(found) != len(place.built_in):
                    dataset['classes'] = found


def _datasets(cfg: Config, loader: str) -> list[Leaf]:
    if cfg.get(loader) is None:
        return []
    return list(_leaves(f'{loader}.dataset', cfg[loader].dataset))


def _leaves(key: str, dataset: dict) -> Iterator[Leaf]:
    """The datasets inside wrappers such as RepeatDataset, ConcatDataset."""
    if 'dataset' in dataset:
        yield from _leaves(f'{key}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from _leaves(f'{key}.datasets.{i}', inner)
    else:
        yield key, dataset


class _Place:
    """Where MMPretrain's CustomDataset looks for images and labels.

    Args:
        dataset (dict): The config of a dataset.
    """

    def __init__(self, dataset: dict) -> None:
        from mmpretrain.datasets import CustomDataset, ImageNet

        kind = dataset.get('type')
        if isinstance(kind, str):
            with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
                kind = registry.get(kind)
        self.kind = kind
        # Others have layouts of their own and may download themselves.
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
            for text in dataset.get('extensions') or getattr(kind, 'IMG_EXTENSIONS', EXTENSIONS)
        )
        self.names = _given_names(dataset)
        self.built_in = kind.METAINFO.get('classes')


def _given_names(dataset: dict) -> list[str] | None:
    """The class names that a config gives; text is a file of them."""
    names = (dataset.get('metainfo') or {}).get('classes') or dataset.get('classes')
    if isinstance(names, str):
        try:
            with open(osp.expanduser(names), encoding='utf-8') as file:
                return file.read().splitlines()
        except (OSError, UnicodeDecodeError):
            return None  # which MMPretrain says
    return list(names) if names else None


def _check_dataset(
    cfg: Config, key: str, dataset: dict, counts: dict[tuple, dict[str, int]]
) -> tuple[int | None, Labels | None]:
    """Returns the number of images and the labels, where they are known."""
    from poslabel_mm.datasets import FashionMNIST

    place = _Place(dataset)
    kind = place.kind
    if kind is FashionMNIST and not dataset.get('download'):
        kind.find_files(**{key: dataset[key] for key in ('data_root', 'split') if key in dataset})
    if not place.is_custom or not place.is_local:
        return None, None
    root, folder, ann_file = place.root, place.folder, place.ann_file
    if ann_file and not osp.isfile(ann_file):
        raise UserError(f'annotation file {ann_file} ({key}.ann_file) does not exist')

    example = osp.join(folder, '<class>' if place.by_class else '', '<image>.JPEG')
    source = IMAGENET if place.is_imagenet else source_named(root)
    advice = 'put the data (or a link to it) there' if source is None else source.advice
    elsewhere = _root_options(cfg, dataset)
    way_out = f'expected {example}; {advice}, or set --cfg-options {elsewhere}'
    missing = next((path for path in (root, folder) if path and not osp.isdir(path)), None)
    if missing is not None:
        raise UserError(f'data folder {osp.normpath(missing)} ({key}) does not exist: {way_out}')
    if ann_file:
        listed = read_list(ann_file, place.with_label)
        return listed.size, Labels(
            key, root, ann_file, elsewhere, listed.label_of, labels=frozenset(listed.labels)
        ) if place.with_label else None
    which = folder, place.by_class, place.extensions
    if which not in counts:
        counts[which] = (
            count_by_class(folder, place.extensions)
            if place.by_class
            else {'': count_images(folder, place.extensions)}
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
        num_names=None if place.names is None else len(place.names),
        kind=kind.__name__,
        num_built_in=len(place.built_in) if place.built_in else None,
    ) if place.by_class else None


def _labels_in(checkpoint: str | None, cfg: Config, datasets: list[Labels]) -> list[Labels]:
    """The classes that MMEngine saved in a checkpoint, where they are those of folders."""
    places = [_Place(dataset) for _, dataset in _datasets(cfg, 'train_dataloader')]
    if (
        checkpoint is None
        or '://' in checkpoint
        or any(place.is_custom and place.names for place in places)
    ):
        return []  # names from the config need not be in the order of the folders
    try:
        content = read(checkpoint, 'cpu', mmap=True)
        names = content['meta']['dataset_meta']['classes']
        label_of = {str(name): label for label, name in enumerate(names)}
    except (UserError, KeyError, TypeError, IndexError):
        return []  # a file that is no checkpoint is refused in its turn
    found = {name for dataset in datasets if not dataset.num_names for name in dataset.label_of}
    if not found & set(label_of):
        return []  # such as ImageNet's, where the folders are numbers
    return [Labels('meta.dataset_meta.classes', '', checkpoint, '', label_of)]


def _training_labels(cfg: Config) -> list[Labels]:
    """The labels that a model learned, where its training data is still there."""
    for key, dataset in _datasets(cfg, 'train_dataloader'):
        place = _Place(dataset)
        if place.is_custom and place.is_local and place.by_class and osp.isdir(place.folder):
            names = class_names(place.folder)
            return [
                Labels(
                    key,
                    place.root,
                    place.folder,
                    _root_options(cfg, dataset),
                    {name: label for label, name in enumerate(names)},
                )
            ]
    return []


def _root_options(cfg: Config, dataset: dict) -> str:
    """The options that move everything with this dataset's root elsewhere."""
    root = dataset.get('data_root')
    return ' '.join(
        f'{key}.data_root=...'
        for loader in LOADERS
        for key, other in _datasets(cfg, loader)
        if other.get('data_root') == root
    )


def _check_batches(cfg: Config, loader: str, sizes: dict[str, int]) -> None:
    """Refuse a loader that drops its only batch."""
    options = cfg[loader]
    batch, sampler = options.get('batch_size'), options.get('sampler') or {}
    inner = options.get('batch_sampler') or {}
    key = f'{loader}.batch_sampler' if inner.get('drop_last') else loader
    drops = inner.get('drop_last') or options.get('drop_last')
    if (
        not drops
        or not isinstance(batch, int)
        or options.get('num_batch_per_epoch')
        or _type_name(sampler) != 'DefaultSampler'
    ):
        return
    processes = _num_processes(cfg)

    def of_each(size: int) -> int:
        # The sampler repeats images so that all processes have as many.
        return -(-size // processes) if sampler.get('round_up', True) else size // processes

    if of_each(_least_size(f'{loader}.dataset', options.dataset, sizes)) >= batch:
        return
    named = copy.deepcopy(cfg)
    name_classes(named)
    size = len(DATASETS.build(named[loader].dataset))
    if of_each(size) < batch:
        where = 'a process' if processes > 1 else 'it'
        smaller = f'{loader}.batch_size={of_each(size)} or ' if of_each(size) else ''
        raise UserError(
            f'{loader} has no batch: {where} gets {of_each(size)} images, a batch is {batch} '
            f'({loader}.batch_size), and smaller ones are dropped ({key}.drop_last): set '
            f'--cfg-options {smaller}{key}.drop_last=False'
        )


def _least_size(key: str, dataset: dict, sizes: dict[str, int]) -> int:
    """The number of images that a dataset has at least, without building it."""
    kind = _type_name(dataset)
    if kind in ('RepeatDataset', 'ClassBalancedDataset'):
        return _least_size(f'{key}.dataset', dataset['dataset'], sizes)
    if kind == 'ConcatDataset':
        return sum(
            _least_size(f'{key}.datasets.{i}', inner, sizes)
            for i, inner in enumerate(dataset['datasets'])
        )
    return sizes.get(key, 0) if dataset.get('indices') is None else 0


def _type_name(options: dict) -> str:
    """The name of a type, without its scope."""
    kind = options.get('type')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def _num_processes(cfg: Config) -> int:
    variable = WORLD_SIZES.get(cfg.get('launcher'))
    return int(os.environ.get(variable, 1)) if variable else 1
