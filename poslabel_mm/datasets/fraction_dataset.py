"""Class folders of which a fraction of every class is used, the same images everywhere."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpretrain.datasets import CustomDataset

from poslabel_mm import options
from poslabel_mm.registry import DATASETS


@DATASETS.register_module()
class FractionDataset(CustomDataset):
    """MMPretrain's ``CustomDataset``, of which a fraction of every class is used.

    Which images are kept depends on their names alone, that of the class folder and that of the
    file: it is the same on every machine and at every seed. Every class keeps its share, at least
    one image. A smaller fraction is a part of a larger one. Images without labels are counted by
    their folder.

    Args:
        fraction (float): The fraction of the images of each class, from 0.001. Defaults to 1.
        split (str): Another name of ``data_prefix``, for configs of MMPretrain's ``ImageNet``.
        data_prefix (str): The folder of the class folders in ``data_root``.
        **kwargs: Other arguments of ``CustomDataset`` (``data_root``, ``pipeline``,
            ``with_label``, …). ``indices`` count what the fraction leaves.

    Raises:
        OptionError: If ``fraction`` is no number from 0.001 to 1.
    """

    def __init__(
        self, fraction: float = 1.0, split: str = '', data_prefix: str = '', **kwargs
    ) -> None:
        self.fraction = options.number('fraction', fraction, 0.001, 1)
        super().__init__(data_prefix=data_prefix or split, **kwargs)

    def filter_data(self) -> list[dict]:
        """The images that are kept, in the order of the whole dataset."""
        return fraction_of_classes(super().filter_data(), self.fraction)


def fraction_of_classes(infos: Sequence[dict[str, Any]], fraction: float) -> list[dict[str, Any]]:
    """Keep a fraction of the images of every class, to the nearest image and at least one.

    Args:
        infos (Sequence[dict]): ``img_path`` and, where it is labelled, ``gt_label`` of each image.
        fraction (float): From 0 to 1.
    """
    if fraction == 1:
        return list(infos)
    classes: dict[Any, list[tuple[bytes, int]]] = {}
    for index, info in enumerate(infos):
        # What is around the class folders differs from machine to machine.
        parts = Path(info['img_path']).parts[-2:]
        rank = hashlib.sha256('/'.join(parts).encode()).digest()
        classes.setdefault(info.get('gt_label', parts[0]), []).append((rank, index))
    kept = [
        index
        for ranked in classes.values()
        for _, index in sorted(ranked)[: max(1, round(fraction * len(ranked)))]
    ]
    return [infos[index] for index in sorted(kept)]
