"""Photographs that are decoded once: small training runs then spend their time on the model."""

import hashlib
import math
import os
import os.path as osp
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import CustomDataset

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.registry import DATASETS

# Changes where the same images would give other pixels.
VERSION = 1
# Images that are decoded at a time: their reading overlaps.
THREADS = 4


@DATASETS.register_module()
class DecodedImages(CustomDataset):
    """Images in class folders, reduced and decoded once into a file that all processes share.

    The file holds the images as they are after reading with MMCV and reducing the shorter side.
    It is mapped into memory, so that workers, ranks and runs side by side hold it once. It is
    made again when an image is added, removed or changed. Making it takes three times its size of
    memory: 150 MB for 10,000 images of 72 px.

    An image is ``img`` of shape (H, W, 3), uint8 BGR, so a pipeline begins without
    ``LoadImageFromFile``, or with ``poslabel_mm.LoadMissingImage`` for tools that show the model
    one file.

    Args:
        short_side (int): The shorter side of an image in pixels. Larger images are reduced to it,
            with pixel area relation; smaller ones are kept.
        fraction (float): The part of each class's images that is taken, rounded up, the first by
            name. They are repeated, so that an epoch is as long as with all of them and runs with
            less data differ in nothing else. Defaults to 1.
        cache (str): The folder of the decoded files. Defaults to 'work_dirs/decoded'.
        data_root (str): The folder that holds ``data_prefix``.
        data_prefix (str): The folder of the class folders in ``data_root``.
        **kwargs: Other arguments of MMPretrain's ``CustomDataset``
            (``pipeline``, ``indices``, ``test_mode``, …).

    Raises:
        UserError: If ``short_side`` is no positive whole number, ``fraction`` is not in (0, 1], an
            image cannot be read, or the file cannot be written.
    """

    def __init__(
        self,
        short_side: int,
        fraction: float = 1.0,
        cache: str = 'work_dirs/decoded',
        data_root: str = '',
        data_prefix: str = '',
        **kwargs,
    ) -> None:
        self.short_side = options.whole_number('short_side', short_side)
        self.fraction = options.number('fraction', fraction, 0, 1)
        if self.fraction == 0:
            raise UserError('fraction must be above 0 and at most 1, got 0')
        self.cache = cache
        super().__init__(data_root=data_root, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images: ``img_path``, ``gt_label`` and where their pixels begin."""
        infos = super().load_data_list()
        paths = [info['img_path'] for info in infos]
        self._pixels, shapes = _decoded(paths, self.short_side, self.cache)
        starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))[:-1]])
        for info, shape, start in zip(infos, map(tuple, shapes.tolist()), starts.tolist()):
            info.update(start=start, shape=shape, img_shape=shape[:2], ori_shape=shape[:2])
        taken = _first_of_each_class(infos, self.fraction)
        return [taken[i % len(taken)] for i in range(len(infos))]

    def get_data_info(self, idx: int) -> dict:
        """An image's information, with a copy of its pixels."""
        info = super().get_data_info(idx)
        start, shape = info.pop('start'), info.pop('shape')
        pixels = self._pixels[start : start + shape[0] * shape[1] * 3]
        # Transforms may write into the image, and the file is everybody's.
        info['img'] = np.array(pixels).reshape(*shape)
        return info


def _first_of_each_class(infos: list[dict], fraction: float) -> list[dict]:
    of_class: dict[int, list[dict]] = {}
    for info in infos:
        of_class.setdefault(info.get('gt_label', -1), []).append(info)
    return [
        info
        for images in of_class.values()
        for info in images[: math.ceil(len(images) * fraction)]
    ]


def _decoded(paths: list[str], short_side: int, cache: str) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of all images one after the other, and the shape of each."""
    digest = hashlib.sha256(f'{VERSION} {short_side}'.encode())
    for path in paths:
        stat = os.stat(path)
        # Folders of one name may be moved: what is around them does not count.
        parts = Path(path).parts[-2:]
        digest.update(repr((parts, stat.st_size, stat.st_mtime_ns)).encode())
    stem = osp.join(cache, digest.hexdigest()[:16])
    pixels, shapes = f'{stem}.npy', f'{stem}_shapes.npy'
    # The shapes are written last: where they are, the pixels are whole.
    if not osp.isfile(shapes) or not osp.isfile(pixels):
        with ThreadPoolExecutor(THREADS) as pool:
            images = list(pool.map(lambda path: _read(path, short_side), paths))
        flat = [image.ravel() for image in images] or [np.zeros(0, np.uint8)]
        _write(pixels, np.concatenate(flat))
        _write(shapes, np.array([i.shape for i in images]).reshape(-1, 3))
    return np.load(pixels, mmap_mode='r'), np.load(shapes)


def _write(path: str, array: np.ndarray) -> None:
    """Write an array in one step, for ranks and runs that start together."""
    temporary = f'{path}.{os.getpid()}.tmp'
    try:
        os.makedirs(osp.dirname(path), exist_ok=True)
        with open(temporary, 'wb') as file:
            np.save(file, array)
        os.replace(temporary, path)
    except OSError as error:
        if osp.exists(temporary):
            os.remove(temporary)
        raise UserError(
            f'the decoded images could not be written to {osp.dirname(path)} '
            f'({error.strerror}): give the dataset another folder by cache='
        ) from error


def _read(path: str, short_side: int) -> np.ndarray:
    image = LoadImageFromFile()(dict(img_path=path))['img']
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = max(round(width * scale), short_side), max(round(height * scale), short_side)
    return mmcv.imresize(image, size, interpolation='area')
