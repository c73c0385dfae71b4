import numpy as np
from mmengine.dataset import BaseDataset

from poslabel_mm import options
from poslabel_mm.datasets.fashion_mnist import FashionMNIST, read_array
from poslabel_mm.datasets.sources import FASHION_MNIST
from poslabel_mm.registry import DATASETS

# The darkest pixel that belongs to a garment, of 255. The background of an image is not quite 0.
DARKEST = 32
# fmt: off
PALETTE = [  # black, and Tableau's ten colours
    (0, 0, 0), (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
]
# fmt: on


@DATASETS.register_module()
class FashionMNISTScenes(BaseDataset):
    """Scenes composed of garments of Fashion-MNIST, for semantic segmentation.

    A scene is black and shows several garments at random places that lie
    inside it, later ones over earlier ones. The pixels of a garment are those
    of its image that are 32 or lighter. A pixel of the scene has the class of
    the garment that is seen there, or class 0, the background. No garment is
    used twice. The scenes do not depend on the seed of a run: with the same
    ``split``, ``garments``, ``size`` and ``draw`` they are the same on every
    machine, and fewer scenes are the first ones of more.

    A scene is ``img`` of shape (size, size, 3), uint8, and ``gt_seg_map`` of
    shape (size, size), uint8, so a pipeline begins without
    ``LoadImageFromFile`` and ``LoadAnnotations``. All scenes are in memory,
    two bytes a pixel: 10,000 of 64 px take 82 MB. They have no ``img_path``,
    which hooks that draw predictions ask for.

    Args:
        data_root (str): Where the files of Fashion-MNIST are, see
            :class:`FashionMNIST`. Defaults to 'data/fashion_mnist'.
        split (str): Which garments are used: 'train', 60,000 images, or
            'test', 10,000. Defaults to 'train'.
        num_scenes (int): The number of scenes. Defaults to 1,000.
        garments (int): The number of garments in a scene. Defaults to 4.
        size (int): Height and width of a scene in pixels, 28 at least.
            Defaults to 64.
        draw (int): A number from 0 to 2**32 - 1; each gives other scenes.
            Defaults to 0.
        **kwargs: Other arguments of MMEngine's ``BaseDataset``
            (``pipeline``, ``indices``, ``test_mode``, ...).

    Raises:
        UserError: For an unknown ``split``, an option that is out of range,
            more garments than the split has, or a file that is missing or
            damaged.
    """

    METAINFO = dict(classes=('background', *FashionMNIST.METAINFO['classes']), palette=PALETTE)

    def __init__(
        self,
        data_root: str = FASHION_MNIST.folder,
        split: str = 'train',
        num_scenes: int = 1000,
        garments: int = 4,
        size: int = 64,
        draw: int = 0,
        **kwargs,
    ) -> None:
        self.split = split
        self.num_scenes = options.whole_number('num_scenes', num_scenes, least=1)
        self.garments = options.whole_number('garments', garments, least=1)
        self.size = options.whole_number('size', size, least=28)
        self.draw = options.whole_number('draw', draw, least=0, most=2**32 - 1)
        self._check_number(data_root)
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def _check_number(self, data_root: str) -> None:
        _, labels = FashionMNIST.find_files(data_root, self.split)
        most, needed = len(read_array(labels)), self.num_scenes * self.garments
        if needed > most:
            least, key = (
                (self.garments, 'num_scenes') if self.garments <= most else (1, 'garments')
            )
            raise options.wrong(
                'num_scenes',
                self.num_scenes,
                f'is refused: with garments={self.garments} it takes {needed} images, and '
                f'split={self.split!r} of {FASHION_MNIST.title} has {most}: set {key} to '
                f'{most // least} at most',
            )

    def load_data_list(self) -> list[dict]:
        """List the scenes: ``img``, which has one channel here, ``gt_seg_map`` and shapes."""
        garments = FashionMNIST(self.data_root, self.split, lazy_init=True).load_data_list()
        # RandomState's numbers stay the same from one NumPy to the next.
        random = np.random.RandomState(self.draw)
        order = random.permutation(len(garments))
        shape, side = (self.size, self.size), len(garments[0]['img'])
        scenes = []
        for start in range(0, self.num_scenes * self.garments, self.garments):
            image, segments = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
            chosen = order[start : start + self.garments]
            corners = random.randint(self.size - side + 1, size=(len(chosen), 2), dtype=np.int64)
            for i, (y, x) in zip(chosen, corners):
                window = slice(y, y + side), slice(x, x + side)
                pixels = garments[i]['img']
                shown = pixels >= DARKEST
                image[window][shown] = pixels[shown]
                segments[window][shown] = garments[i]['gt_label'] + 1
            scenes.append(dict(img=image, gt_seg_map=segments, img_shape=shape, ori_shape=shape))
        return scenes

    def get_data_info(self, idx: int) -> dict:
        """A scene's information, with three equal channels and what MMSegmentation asks for."""
        # Kept with one channel, as in FashionMNIST.
        info = super().get_data_info(idx)
        info['img'] = np.repeat(info['img'][..., None], 3, axis=-1)
        return info | dict(seg_fields=['gt_seg_map'], reduce_zero_label=False)
