import os.path as osp
import zlib

import numpy as np
from mmengine import dist
from mmpretrain.datasets import FashionMNIST as StockFashionMNIST
from mmpretrain.datasets.mnist import read_sn3_pascalvincent_tensor

from poslabel_mm.datasets.sources import FASHION_MNIST
from poslabel_mm.errors import UserError
from poslabel_mm.registry import DATASETS

# Where Debian's package dataset-fashion-mnist installs the files.
SYSTEM_FOLDER = '/usr/share/datasets/fashion-mnist'
SPLITS = {'train': 'train', 'test': 't10k'}


@DATASETS.register_module()
class FashionMNIST(StockFashionMNIST):
    """Fashion-MNIST from ``*-ubyte`` files, compressed or not.

    They are read from ``data_root``, or from where Debian's package
    ``dataset-fashion-mnist`` installs them. The files that MMPretrain's own
    dataset downloads are the same.

    An image is ``img`` of shape (28, 28, 3), uint8 with the garment light on
    black, so a pipeline begins without ``LoadImageFromFile``, or with
    ``poslabel_mm.LoadMissingImage`` for tools that show the model one file.

    Args:
        data_root (str): The folder to look in first. Defaults to
            'data/fashion_mnist'.
        split (str): 'train', 60,000 images, or 'test', 10,000. Defaults to
            'train'.
        download (bool): Have MMPretrain download the files to ``data_root``
            if they are not there. Defaults to False.
        **kwargs: Other arguments of MMPretrain's ``BaseDataset``
            (``pipeline``, ``indices``, ``test_mode``, ...).

    Raises:
        UserError: For an unknown ``split``, a file that is missing or
            damaged, or a download that fails.
    """

    def __init__(
        self,
        data_root: str = FASHION_MNIST.folder,
        split: str = 'train',
        download: bool = False,
        **kwargs,
    ) -> None:
        _check_split(split)
        super().__init__(data_root=data_root, split=split, download=download, **kwargs)

    @staticmethod
    def find_files(data_root: str = FASHION_MNIST.folder, split: str = 'train') -> list[str]:
        """Paths of the images and the labels of a split.

        Raises:
            UserError: If one is in neither folder, or for an unknown ``split``.
        """
        _check_split(split)
        return [
            _find_file(data_root, f'{SPLITS[split]}-{kind}-ubyte')
            for kind in ('images-idx3', 'labels-idx1')
        ]

    def load_data_list(self) -> list[dict]:
        """List the images of the split: ``img``, ``gt_label`` and shapes."""
        if self.download:
            # Not MMPretrain's method, which goes on to read the unpacked files alone.
            if dist.is_main_process() and not self._check_exists():
                self._download()
            dist.barrier()
        paths = self.find_files(self.data_root, self.split)
        images, labels = map(read_array, paths)
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise UserError(
                f'{paths[0]} and {paths[1]} are no {FASHION_MNIST.title}: '
                f'they hold arrays of shapes {images.shape} and '
                f'{labels.shape}; download them again'
            )
        return [
            dict(img=image, img_shape=image.shape, ori_shape=image.shape, gt_label=int(label))
            for image, label in zip(images, labels)
        ]

    def _download(self) -> None:
        try:
            super()._download()
        except (OSError, RuntimeError) as error:
            raise UserError(
                f'cannot download {FASHION_MNIST.title} from {self.url_prefix} '
                f'to {self.data_root} ({error}): {FASHION_MNIST.advice}'
            ) from error

    def get_data_info(self, idx: int) -> dict:
        """An image's information, with three equal channels."""
        # Kept with one: 60,000 images are 47 MB then.
        info = super().get_data_info(idx)
        info['img'] = np.repeat(info['img'][..., None], 3, axis=-1)
        return info


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f'FashionMNIST has no split={split!r}; choose from {list(SPLITS)}')


def _find_file(data_root: str, name: str) -> str:
    for folder in data_root, SYSTEM_FOLDER:
        for path in osp.join(folder, name), osp.join(folder, f'{name}.gz'):
            if osp.isfile(path):
                return path
    raise UserError(
        f'neither {data_root} nor {SYSTEM_FOLDER} has the file '
        f'{name}[.gz] of {FASHION_MNIST.title}: '
        f'{FASHION_MNIST.advice}'
    )


def read_array(path: str) -> np.ndarray:
    """The array of a ``*-ubyte`` file, or of the ``.gz`` beside it where that file is damaged.

    Raises:
        UserError: If neither can be read.
    """
    try:
        return read_sn3_pascalvincent_tensor(path).numpy()
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AssertionError,
        IndexError,
        zlib.error,
    ) as error:
        if osp.isfile(f'{path}.gz'):
            # MMPretrain unpacks in place: another process may be at it, or was killed at it.
            return read_array(f'{path}.gz')
        raise UserError(
            f'cannot read {path} ({error or "it ends early"}): download it again'
        ) from error
