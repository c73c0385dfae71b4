import numpy as np
from mmpretrain.datasets import BaseDataset

from poslabel_mm.errors import UserError
from poslabel_mm.registry import DATASETS

SPLITS = ('train', 'test')
INK_LEVELS = 16  # scikit-learn counts the black pixels of 4x4 blocks


@DATASETS.register_module()
class Digits(BaseDataset):
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships.

    Real images without a download: the test part of the UCI "Optical
    Recognition of Handwritten Digits" data. They come without an official
    split, so a stratified one is drawn from ``split_seed``; it is independent
    of the seed that a run trains with.

    The images are in memory, as ``img`` of shape (8, 8, 3), uint8 with white
    ink on black, so a pipeline begins without ``LoadImageFromFile``, or with
    ``poslabel_mm.LoadMissingImage`` for tools that show the model one file.

    Args:
        split (str): 'train' or 'test'. Defaults to 'train'.
        test_ratio (float): The part of the images that is for testing, in
            (0, 1). Defaults to 0.5.
        split_seed (int): Seed of the split. Defaults to 0.
        **kwargs: Other arguments of MMPretrain's ``BaseDataset``
            (``pipeline``, ``indices``, ``test_mode``, ...).

    Raises:
        UserError: For an unknown ``split``, a ``test_ratio`` that leaves a
            side without all ten digits, or without scikit-learn.
    """

    METAINFO = {
        'classes': ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
    }

    def __init__(
        self, split: str = 'train', test_ratio: float = 0.5, split_seed: int = 0, **kwargs
    ) -> None:
        if split not in SPLITS:
            raise UserError(f'Digits has no split={split!r}; choose from {list(SPLITS)}')
        self.split = split
        self.test_ratio = test_ratio
        self.split_seed = split_seed
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images of the split: ``img``, ``gt_label`` and shapes."""
        try:
            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split
        except ImportError:
            raise UserError(
                'the digits come with scikit-learn, which is not installed: '
                'pip install scikit-learn'
            ) from None
        digits = load_digits()
        try:
            train, test = train_test_split(
                np.arange(len(digits.target)),
                test_size=float(self.test_ratio),
                random_state=self.split_seed,
                stratify=digits.target,
            )
        except ValueError:
            raise UserError(
                f'Digits cannot be split with test_ratio={self.test_ratio}; '
                'take a number between 0 and 1 that leaves every digit on '
                'both sides, such as 0.5'
            ) from None
        images = np.rint(digits.images * (255 / INK_LEVELS)).astype(np.uint8)
        return [
            dict(
                img=np.repeat(images[i][..., None], 3, axis=-1),
                img_shape=images[i].shape,
                ori_shape=images[i].shape,
                gt_label=int(digits.target[i]),
            )
            for i in np.sort(train if self.split == 'train' else test)
        ]

    def extra_repr(self) -> list[str]:
        """The split, for ``repr``."""
        return [
            f'Split: \t{self.split}, test_ratio={self.test_ratio}, split_seed={self.split_seed}'
        ]
