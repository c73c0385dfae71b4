import csv
import os.path as osp

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS


@DATASETS.register_module()
class Photos(BaseDataset):
    """Images listed in a CSV file with the columns ``image`` and ``label``."""

    METAINFO = dict(classes=('cat', 'dog'))

    def load_data_list(self) -> list[dict]:
        with open(self.ann_file, newline='') as file:
            return [
                dict(
                    img_path=osp.join(self.img_prefix, row['image']),
                    gt_label=self.CLASSES.index(row['label']),
                )
                for row in csv.DictReader(file)
            ]
