"""The images that are looked at: files, folders, or a split of the config's data."""

import copy
import os
import os.path as osp
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor

from poslabel_mm.datasets.converters.images import IMAGE_EXTENSIONS
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.class_names import name_classes
from poslabel_mm.launch.checks.data import check_data
from poslabel_mm.launch.checks.dataset_files import datasets_of
from poslabel_mm.visualization.look import SPLITS


class LookedImage(NamedTuple):
    """One image.

    Attributes:
        name (str): For pictures and their files.
        load (callable): Gives the image as the model's input before normalisation, uint8
            (3, height, width).
        is_bgr (bool): Whether it is known that the channels are BGR.
    """

    name: str
    load: Callable[[], Tensor]
    is_bgr: bool = False


def find_images(cfg: Config, sources: Sequence[str]) -> list[LookedImage]:
    """The images that a user names.

    Args:
        cfg (Config): A complete config, whose test pipeline prepares them.
        sources (Sequence[str]): Files, folders, or 'train', 'val' or 'test'. What exists as a
            path is a path.

    Returns:
        list[LookedImage]: In the order given, those of a folder by name.

    Raises:
        UserError: If there is no such path or split, or a folder has no images.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    found: list[LookedImage] = []
    for source in sources:
        if not osp.exists(source) and source in SPLITS:
            found += _of_split(cfg, source)
        else:
            found += _of_path(cfg, source)
    return _make_names_unique(found)


def spread(images: Sequence[LookedImage], at_most: int) -> list[LookedImage]:
    """Some of the images, evenly spaced: datasets are sorted by their classes.

    Args:
        images (Sequence[LookedImage]): All of them.
        at_most (int): How many to take.
    """
    count = min(at_most, len(images))
    return [images[i] for i in np.linspace(0, len(images) - 1, count).round().astype(int)]


def _of_path(cfg: Config, path: str) -> list[LookedImage]:
    if not osp.exists(path):
        raise UserError(
            f'{path} does not exist: name image files, folders of images, or {", ".join(SPLITS)}'
        )
    files = [path] if osp.isfile(path) else _files_in(path)
    pipeline = _test_pipeline(cfg)
    if 'Load' not in str(pipeline[0]['type']):  # of a dataset that has its images in memory
        pipeline.insert(0, dict(type='LoadImageFromFile'))
    prepare = Compose(pipeline)

    def loader(file: str) -> Callable[[], Tensor]:
        return lambda: _one_image(prepare(dict(img_path=file)), file)

    is_bgr = pipeline[0].get('channel_order', 'bgr') == 'bgr'
    return [
        LookedImage(osp.splitext(osp.basename(file))[0], loader(file), is_bgr) for file in files
    ]


def _files_in(folder: str) -> list[str]:
    files = sorted(
        osp.join(above, name)
        for above, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGE_EXTENSIONS)
    )
    if not files:
        raise UserError(f'folder {folder} has no image ({", ".join(IMAGE_EXTENSIONS)})')
    return files


def _of_split(cfg: Config, split: str) -> list[LookedImage]:
    loader = f'{split}_dataloader'
    if cfg.get(loader) is None:
        there = [name for name in SPLITS if cfg.get(f'{name}_dataloader') is not None]
        raise UserError(
            f'{cfg.filename} has no {loader}: name {" or ".join([*there, "image files"])}'
        )
    cfg = copy.deepcopy(cfg)
    pipeline = _test_pipeline(cfg)
    for _, leaf in datasets_of(cfg, loader):
        if 'pipeline' in leaf:
            leaf['pipeline'] = pipeline  # without the augmentation of training
    check_data(cfg, (loader,))
    name_classes(cfg)
    dataset = DATASETS.build(cfg[loader].dataset)

    def load(i: int) -> Callable[[], Tensor]:
        return lambda: _one_image(dataset[i], f'{i} of {split}')

    return [LookedImage(f'{split}-{i}', load(i)) for i in range(len(dataset))]


def _test_pipeline(cfg: Config) -> list[dict]:
    """How the config shows the model an image without augmentation."""
    for loader in 'test_dataloader', 'val_dataloader':
        for _, dataset in datasets_of(cfg, loader):
            if dataset.get('pipeline'):
                return copy.deepcopy(list(dataset['pipeline']))
    # Pre-training tests nothing: the middle of the image, at the size that the model is built for.
    backbone = cfg.model.backbone
    size = backbone.get('img_size', 224)
    height, width = (size, size) if isinstance(size, int) else size
    resize = dict(type='ResizeEdge', scale=height, edge='short', interpolation='bicubic')
    if height != width:
        resize = dict(type='Resize', scale=(width, height), interpolation='bicubic')
    return [
        dict(type='poslabel_mm.LoadMissingImage'),
        resize,
        dict(type='CenterCrop', crop_size=(width, height)),
        dict(type='PackInputs'),
    ]


def _one_image(packed: dict, name: str) -> Tensor:
    image = packed['inputs']
    if not isinstance(image, Tensor) or image.dim() != 3:
        raise UserError(
            f"the config's test pipeline makes several views of image {name}: look takes a "
            'pipeline that gives one image'
        )
    return image


def _make_names_unique(images: list[LookedImage]) -> list[LookedImage]:
    seen: dict[str, int] = {}
    named = []
    for image in images:
        count = seen[image.name] = seen.get(image.name, 0) + 1
        named.append(image if count == 1 else image._replace(name=f'{image.name}-{count}'))
    return named
