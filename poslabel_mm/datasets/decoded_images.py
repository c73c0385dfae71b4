"""Photographs that are decoded once: small training runs need not spend their time on it."""

import hashlib
import os
import os.path as osp
import secrets
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import CustomDataset

from poslabel_mm import options
from poslabel_mm.datasets.fraction_dataset import FractionOfClasses
from poslabel_mm.errors import UserError
from poslabel_mm.file_lock import Attempt, file_lock
from poslabel_mm.registry import DATASETS

# Images that are decoded at a time: their reading overlaps.
THREADS = 4
# A temporary file that has not been written to for a day, in seconds, is of a killed process.
ABANDONED = 86_400


@DATASETS.register_module()
class DecodedImages(FractionOfClasses, CustomDataset):
    """Images in class folders, reduced and decoded once into a file that all processes share.

    The file holds the images as they are after reading with MMCV and reducing the shorter side.
    It is mapped into memory, so that workers, ranks and runs side by side hold it once. One
    process makes it while the others wait; on a file system without locks several may make it at
    a time, and the first one's is used. Images that were added, removed or changed, and
    another MMCV or OpenCV, get a file of their own; old ones stay until they are removed by hand.

    An image is ``img`` of shape (H, W, 3), uint8 BGR, so a pipeline begins without
    ``LoadImageFromFile``, or with ``poslabel_mm.LoadMissingImage`` for tools that show the model
    one file. All images are decoded, whatever the ``fraction`` of them that is used.

    Args:
        short_side (int): The shorter side of an image in pixels. Larger images are reduced to it,
            with pixel area relation; smaller ones are kept.
        cache (str): The folder of the decoded files: 3 bytes a pixel, 250 MB for 10,000 images of
            80x107 px. Defaults to 'work_dirs/decoded'.
        data_root (str): The folder that holds ``data_prefix``.
        data_prefix (str): The folder of the class folders in ``data_root``.
        **kwargs: ``fraction`` and ``draw``, see :class:`.FractionOfClasses`, and those of
            MMPretrain's ``CustomDataset`` (``pipeline``, ``indices``, ``test_mode``, …).

    Raises:
        UserError: If ``short_side`` is no positive whole number, an image is missing or cannot be
            read, or the file cannot be written.
    """

    def __init__(
        self,
        short_side: int,
        cache: str = 'work_dirs/decoded',
        data_root: str = '',
        data_prefix: str = '',
        **kwargs,
    ) -> None:
        self.short_side = options.whole_number('short_side', short_side)
        self.cache = cache
        self._pixels: np.ndarray | None = None
        super().__init__(data_root=data_root, data_prefix=data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images: ``img_path``, ``gt_label`` and where their pixels begin."""
        infos = super().load_data_list()
        paths = [info['img_path'] for info in infos]
        self._file, shapes = _decoded(paths, self.short_side, self.cache)
        starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))[:-1]])
        for info, shape, start in zip(infos, map(tuple, shapes.tolist()), starts.tolist()):
            info.update(start=start, shape=shape, img_shape=shape[:2], ori_shape=shape[:2])
        return infos

    def get_data_info(self, idx: int) -> dict:
        """An image's information, with a copy of its pixels."""
        if self._pixels is None:
            self._pixels = np.memmap(self._file, np.uint8, 'r')
        info = super().get_data_info(idx)
        start, shape = info.pop('start'), info.pop('shape')
        pixels = self._pixels[start : start + shape[0] * shape[1] * 3]
        # A copy: transforms may write into the image.
        info['img'] = np.array(pixels).reshape(*shape)
        return info

    def __getstate__(self) -> dict:
        # Copies and processes map the file anew. A map would be copied as its content.
        return self.__dict__ | dict(_pixels=None)


def _decoded(paths: Sequence[str], short_side: int, cache: str) -> tuple[str, np.ndarray]:
    """The file with the pixels of all images one after the other, and the shape of each."""
    digest = hashlib.sha256(f'{short_side} {mmcv.__version__} {cv2.__version__}'.encode())
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise UserError(f'image {path} cannot be read: {error.strerror}') from error
        # Folders of one name may be moved: what is around them does not count.
        parts = Path(path).parts[-2:]
        digest.update(repr((parts, stat.st_size, stat.st_mtime_ns)).encode())
    stem = osp.join(cache, digest.hexdigest()[:16])
    pixels, shapes = f'{stem}.bin', f'{stem}.npy'
    try:
        os.makedirs(cache, exist_ok=True)
        _remove_abandoned(stem)
        with file_lock(f'{stem}.lock') as attempt:
            found = _shapes(shapes, pixels)
            if found is None:
                found = _make(paths, short_side, stem, attempt is Attempt.LOCKED)
    except OSError as error:
        raise UserError(
            f'the decoded images could not be written to {cache} ({error.strerror or error}): '
            'free some space, or give the dataset another folder by cache='
        ) from error
    return pixels, found


def _remove_abandoned(stem: str) -> None:
    """Remove what processes left that were killed, here or on other hosts."""
    for left in Path(osp.dirname(stem)).glob(f'{osp.basename(stem)}.*.tmp'):
        with suppress(OSError):  # another process has removed it, or the folder is read-only
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def _make(paths: Sequence[str], short_side: int, stem: str, locked: bool) -> np.ndarray:
    """Decode images into a file that takes its place when it is whole, and return their shapes.

    A file that other processes have mapped is never written to: they would be killed by SIGBUS.
    """
    # The lock may hold for this host alone. What a killed process left of the same name is
    # overwritten.
    own = '' if locked else f'.{secrets.token_hex(4)}'
    pixels, shapes = (f'{stem}.{socket.gethostname()}{own}.{i}.tmp' for i in ('bin', 'npy'))
    try:
        made = _write(paths, short_side, pixels)
        with open(shapes, 'wb') as file:
            np.save(file, made)
        found = _shapes(f'{stem}.npy', f'{stem}.bin')
        if found is not None:  # another host was faster, and has mapped its file
            return found
        # The shapes last: where they are, the pixels are whole.
        os.replace(pixels, f'{stem}.bin')
        os.replace(shapes, f'{stem}.npy')
        return made
    finally:
        for path in pixels, shapes:
            with suppress(OSError):
                os.remove(path)


def _shapes(path: str, pixels: str) -> np.ndarray | None:
    """The shapes in a file; None unless they are those of all pixels."""
    try:
        shapes = np.load(path)
        return shapes if shapes.prod(axis=1).sum() == osp.getsize(pixels) else None
    except (OSError, ValueError, EOFError):
        return None  # not made yet, or cut off


def _write(paths: Sequence[str], short_side: int, file: str) -> np.ndarray:
    """Decode images into a file, a few at a time, and return their shapes (n, 3)."""
    shapes = []
    with open(file, 'wb') as out, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), 64):
            part = paths[start : start + 64]
            for image in pool.map(_read, part, [short_side] * len(part)):
                out.write(image.tobytes())
                shapes.append(image.shape)
    return np.array(shapes, np.int64).reshape(-1, 3)


def _read(path: str, short_side: int) -> np.ndarray:
    image = LoadImageFromFile()(dict(img_path=path))['img']
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = max(round(width * scale), short_side), max(round(height * scale), short_side)
    return mmcv.imresize(image, size, interpolation='area')
