"""A fraction of the images of every class, the same on every machine."""

import hashlib
import os
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmpretrain.datasets import CustomDataset

from poslabel_mm import options
from poslabel_mm.registry import DATASETS


class FractionOfClasses:
    """Mixin for ``CustomDataset``: a fraction of the images of every class.

    Which images are kept depends on ``draw`` and on their paths below the folder of the class
    folders: it is the same on every machine and at every seed. Every class keeps its share, at
    least one image. A smaller fraction is a part of a larger one. Without labels, the images of
    each folder there are counted as a class.

    Args:
        fraction (float): The fraction of the images of each class, from 0.001. Defaults to 1.
        draw (int): Another number draws other images. Defaults to 0.
        **kwargs: Other arguments of the dataset. ``indices`` count what the fraction leaves.

    Raises:
        OptionError: If ``fraction`` is no number from 0.001 to 1, or ``draw`` no whole number from
            0 on.
    """

    def __init__(self, *, fraction: float = 1.0, draw: int = 0, **kwargs) -> None:
        self.fraction = options.number('fraction', fraction, 0.001, 1)
        self.draw = options.whole_number('draw', draw, least=0)
        super().__init__(**kwargs)

    def filter_data(self) -> list[dict]:
        """The images that are kept, in the order of the whole dataset."""
        infos = super().filter_data()
        return fraction_of_classes(infos, self.fraction, self.img_prefix, self.draw)


@DATASETS.register_module()
class FractionDataset(FractionOfClasses, CustomDataset):
    """MMPretrain's ``CustomDataset``, of which a fraction of every class is used.

    Args:
        split (str): Another name of ``data_prefix``, for configs of MMPretrain's ``ImageNet``.
        data_prefix (str): The folder of the class folders in ``data_root``.
        **kwargs: ``fraction`` and ``draw``, see :class:`FractionOfClasses`, and other arguments of
            ``CustomDataset`` (``data_root``, ``pipeline``, ``with_label``, …).
    """

    def __init__(self, split: str = '', data_prefix: str = '', **kwargs) -> None:
        super().__init__(data_prefix=data_prefix or split, **kwargs)


def fraction_of_classes(
    infos: Sequence[dict[str, Any]], fraction: float, folder: str, draw: int = 0
) -> list[dict[str, Any]]:
    """Keep a fraction of the images of every class, to the nearest image and at least one.

    Args:
        infos (Sequence[dict]): ``img_path`` and, where it is labelled, ``gt_label`` of each image.
        fraction (float): From 0 to 1.
        folder (str): The folder that their names are relative to. What is around it differs from
            machine to machine.
        draw (int): Another number keeps other images. Defaults to 0.
    """
    if fraction == 1:
        return list(infos)
    classes: dict[Any, list[tuple[bytes, int]]] = {}
    for index, info in enumerate(infos):
        name = osp.relpath(info['img_path'], folder).replace(os.sep, '/')
        rank = hashlib.sha256(f'{draw} {name}'.encode()).digest()
        top = name.partition('/')[0] if '/' in name else ''
        classes.setdefault(info.get('gt_label', top), []).append((rank, index))
    kept = [
        index
        for ranked in classes.values()
        for _, index in sorted(ranked)[: max(1, round(fraction * len(ranked)))]
    ]
    return [infos[index] for index in sorted(kept)]
