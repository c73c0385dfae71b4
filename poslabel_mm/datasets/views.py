"""Views of an image that know where they were cut from it."""

import copy

import numpy as np
from mmpretrain.datasets.transforms import MultiView, RandomResizedCrop

from poslabel_mm import options
from poslabel_mm.registry import TRANSFORMS

# Of MMCV's and MMPretrain's transforms, those that move pixels and do not record how.
MOVES = (
    *('RandomResizedCrop', 'RandomCrop', 'CenterCrop', 'Pad'),
    *('EfficientNetRandomCrop', 'EfficientNetCenterCrop'),
    *('Rotate', 'Shear', 'Translate', 'AutoAugment', 'RandAugment'),
)


@TRANSFORMS.register_module()
class RecordedRandomResizedCrop(RandomResizedCrop):
    """MMPretrain's random crop of random size, which records where it was.

    It draws what the stock transform draws, and gives the same image.

    **Added Keys:**

    - crop_box: Row and column of the crop's centre, its height and its width, in pixels of the
      image that it was cut from.

    Args:
        *args: The stock ``RandomResizedCrop``'s arguments.
        **kwargs: The stock ``RandomResizedCrop``'s arguments.
    """

    def rand_crop_params(self, img: np.ndarray) -> tuple[int, int, int, int]:
        self._crop = super().rand_crop_params(img)
        return self._crop

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        top, left, height, width = self._crop
        results['crop_box'] = (top + height / 2, left + width / 2, height, width)
        return results


@TRANSFORMS.register_module()
class RecordedMultiView(MultiView):
    """MMPretrain's several views of an image, which records where each of them lies in it.

    The images are those of the stock transform. To hand the boxes to the model, name them in
    ``PackInputs(meta_keys=['view_boxes'])``.

    **Added Keys:**

    - view_boxes: float32 (V, 4), the boxes that :mod:`poslabel_mm.tokens.views` describes.

    Args:
        *args: The stock ``MultiView``'s arguments. Every view's transforms have one
            :class:`RecordedRandomResizedCrop`, flips come after it, and nothing else moves pixels.
        **kwargs: The stock ``MultiView``'s arguments.

    Raises:
        UserError: If a view's transforms have no such crop or several, flip before it, or move
            pixels otherwise.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for i, pipeline in enumerate(self.pipelines):
            key = f'transforms.{i}'
            names = [type(transform).__name__ for transform in pipeline.transforms]
            crops = [
                j for j, name in enumerate(names) if name == RecordedRandomResizedCrop.__name__
            ]
            if len(crops) != 1:
                raise options.OptionError(
                    key,
                    f' has {len(crops)} RecordedRandomResizedCrop, in {names}: give every view '
                    "one, type='poslabel_mm.RecordedRandomResizedCrop', in place of its crop",
                )
            moves = [name for name in names if name in MOVES]
            if moves:
                raise options.OptionError(
                    key,
                    f' has {moves[0]}, which moves pixels out of the box that the crop records: '
                    'leave it out, or put it before the views',
                )
            if 'RandomFlip' in names[: crops[0]]:
                raise options.OptionError(
                    key, f' flips before it crops, in {names}: put the flip after the crop'
                )

    def transform(self, results: dict) -> dict:
        # A flip that all views have in common turns the image that the boxes lie in.
        image = {
            key: value for key, value in results.items() if key not in ('flip', 'flip_direction')
        }
        views = [view(copy.deepcopy(image)) for view in self.transforms]
        results['img'] = [view['img'] for view in views]
        results['view_boxes'] = np.array([view_box(view) for view in views], dtype=np.float32)
        return results


def view_box(view: dict) -> tuple[float, float, float, float]:
    """The box of a view, see :mod:`poslabel_mm.tokens.views`.

    Args:
        view (dict): What the view's transforms returned: ``crop_box``, and ``flip`` and
            ``flip_direction`` as MMCV's ``RandomFlip`` records them.
    """
    row, col, height, width = view['crop_box']
    direction = view.get('flip_direction') if view.get('flip') else None
    if direction in ('vertical', 'diagonal'):
        height = -height
    if direction in ('horizontal', 'diagonal'):
        width = -width
    return row, col, height, width
