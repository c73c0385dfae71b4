import numpy as np
from mmengine.dataset import BaseDataset

from poslabel_mm import options
from poslabel_mm.datasets.fashion_mnist import FashionMNIST
from poslabel_mm.datasets.sources import FASHION_MNIST
from poslabel_mm.errors import UserError
from poslabel_mm.registry import DATASETS

LIGHTNESS = 32  # from which on a pixel is of a garment: the background has some of a few levels
PALETTE = (  # Tableau's ten colours
    *((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189)),
    *((140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207)),
)


@DATASETS.register_module()
class FashionMNISTScenes(BaseDataset):
    """Scenes of several garments of Fashion-MNIST, to be segmented.

    A small dataset for semantic segmentation of real images that needs no
    download of its own. A scene is black and has ``garments`` garments at
    random places, whole, each over those before it. A pixel has the class of
    the garment that is seen there, or class 0, the background. No garment is
    in two scenes, so that scenes of the two splits have none in common.
    Which garments a scene has and where depends on ``draw`` alone.

    A scene is ``img`` of shape (size, size, 3), uint8, and ``gt_seg_map`` of
    shape (size, size), uint8, so a pipeline begins without
    ``LoadImageFromFile`` and ``LoadAnnotations``.

    Args:
        data_root (str): Where Fashion-MNIST is, see :class:`FashionMNIST`.
            Defaults to 'data/fashion_mnist'.
        split (str): Whose garments: 'train', 60,000, or 'test', 10,000.
            Defaults to 'train'.
        num_scenes (int): Defaults to 1,000.
        garments (int): How many a scene has. Defaults to 4.
        size (int): Height and width of a scene in pixels, 28 at least.
            Defaults to 64.
        draw (int): Other scenes for another number. Defaults to 0.
        **kwargs: Other arguments of MMEngine's ``BaseDataset``
            (``pipeline``, ``indices``, ``test_mode``, ...).

    Raises:
        UserError: For an unknown ``split``, another option that is out of
            range, more garments than the split has, or a file that is
            missing or damaged.
    """

    METAINFO = dict(
        classes=('background', *FashionMNIST.METAINFO['classes']), palette=((0, 0, 0), *PALETTE)
    )

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
        self.draw = options.whole_number('draw', draw, least=0)
        self.fashion_mnist = data_root
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """List the scenes: ``img``, which has one channel here, ``gt_seg_map`` and shapes."""
        garments = FashionMNIST(self.fashion_mnist, self.split, lazy_init=True).load_data_list()
        needed = self.num_scenes * self.garments
        if needed > len(garments):
            raise UserError(
                f'{self.num_scenes} scenes of {self.garments} garments need {needed}, and '
                f'split={self.split!r} of {FASHION_MNIST.title} has {len(garments)}: set '
                f'num_scenes to {len(garments) // self.garments} at most'
            )
        # The stream of RandomState stays as it is from one NumPy to the next.
        random = np.random.RandomState(self.draw)
        order = random.permutation(len(garments))[:needed].reshape(-1, self.garments)
        shape = self.size, self.size
        side = len(garments[0]['img'])
        places = random.randint(self.size - side + 1, size=(*order.shape, 2), dtype=np.int64)
        scenes = []
        for chosen, corners in zip(order, places):
            image, segments = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
            for i, (y, x) in zip(chosen, corners):
                window = slice(y, y + side), slice(x, x + side)
                pixels = garments[i]['img']
                shown = pixels >= LIGHTNESS
                image[window][shown] = pixels[shown]
                segments[window][shown] = garments[i]['gt_label'] + 1
            scenes.append(dict(img=image, gt_seg_map=segments, img_shape=shape, ori_shape=shape))
        return scenes

    def get_data_info(self, idx: int) -> dict:
        """A scene's information, with three equal channels and what MMSegmentation asks for."""
        # Kept with one, as in FashionMNIST.
        info = super().get_data_info(idx)
        info['img'] = np.repeat(info['img'][..., None], 3, axis=-1)
        return info | dict(seg_fields=['gt_seg_map'], reduce_zero_label=False)
