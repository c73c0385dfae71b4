from mmcv.transforms import LoadImageFromFile

from poslabel_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadMissingImage(LoadImageFromFile):
    """Load the image of ``img_path``, unless the dataset has given ``img``.

    At the head of a pipeline whose dataset has its images in memory: tools
    that show a model one file (``visualization/vis_cam.py``) go through the
    same pipeline. The arguments are those of MMCV's ``LoadImageFromFile``.
    """

    def transform(self, results: dict) -> dict | None:
        """Return ``results`` with ``img`` of shape (H, W, 3), uint8."""
        return results if 'img' in results else super().transform(results)
