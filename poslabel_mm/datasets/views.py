"""Views of an image that record where they were cut from it."""

import copy
from collections.abc import Iterator

import numpy as np
from mmcv.transforms import Compose
from mmpretrain.datasets.transforms import MultiView, RandomResizedCrop
from mmpretrain.datasets.transforms.processing import TorchVisonTransformWrapper

from poslabel_mm import options
from poslabel_mm.registry import TRANSFORMS

# Transforms of MMCV, MMPretrain and torchvision that leave every pixel where it is in the view.
IN_PLACE = {
    *('ColorJitter', 'ColorTransform', 'Brightness', 'Contrast', 'Sharpness', 'AutoContrast'),
    *('Equalize', 'Invert', 'Posterize', 'Solarize', 'SolarizeAdd', 'Lighting', 'Normalize'),
    *('RandomGrayscale', 'GaussianBlur', 'Cutout', 'RandomErasing', 'NumpyToPIL', 'PILToNumpy'),
    *('ToTensor', 'ImageToTensor'),
    *('torchvision/ColorJitter', 'torchvision/GaussianBlur', 'torchvision/Grayscale'),
    *('torchvision/RandomGrayscale', 'torchvision/RandomSolarize', 'torchvision/RandomPosterize'),
    *('torchvision/RandomEqualize', 'torchvision/RandomInvert', 'torchvision/RandomAutocontrast'),
    *('torchvision/RandomAdjustSharpness', 'torchvision/RandomErasing', 'torchvision/Normalize'),
    *('torchvision/ToTensor', 'torchvision/PILToTensor', 'torchvision/ToPILImage'),
}
# Those that scale the whole view. Before the crop they would change what its box is measured in.
SCALES = {'Resize', 'ResizeEdge', 'RandomResize', 'RandomChoiceResize', 'torchvision/Resize'}
# Those that run other transforms on the view.
WRAPPERS = {'Compose', 'RandomApply', 'RandomChoice'}
CROP = 'RecordedRandomResizedCrop'


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
            :class:`RecordedRandomResizedCrop`, at most one ``RandomFlip`` after it, and otherwise
            transforms of colours or of the view's size (``IN_PLACE``, ``SCALES``), which may stand
            in ``RandomApply``, ``RandomChoice`` or ``Compose``.
        **kwargs: The stock ``MultiView``'s arguments.

    Raises:
        UserError: If a view's transforms have no such crop or several, flip twice, flip or scale
            before the crop, or contain anything that may move pixels.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for i, pipeline in enumerate(self.pipelines):
            _check_view(f'transforms.{i}', pipeline)

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


def _check_view(key: str, pipeline: Compose) -> None:
    """Refuse transforms of a view whose box would not be what they show."""
    steps = list(_steps(pipeline))
    names = [name for name, _ in steps]
    crops = [i for i, (name, _) in enumerate(steps) if name == CROP]
    if len(crops) != 1:
        raise options.OptionError(
            key,
            f' has {len(crops)} {CROP}, in {names}: give every view one, '
            f"type='poslabel_mm.{CROP}', in place of its crop",
        )
    (crop,) = crops
    _, wrapper = steps[crop]
    if wrapper is not None:
        raise options.OptionError(
            key, f' has its {CROP} in {wrapper}, which may leave it out: take it out of there'
        )
    for name, _ in steps:
        if name not in {CROP, 'RandomFlip', *IN_PLACE, *SCALES}:
            raise options.OptionError(
                key,
                f' has {name}, which may move pixels out of the box that the crop records: leave '
                'it out, put it before the views or, if every pixel stays where it is, add its '
                'name to poslabel_mm.datasets.views.IN_PLACE',
            )
    if 'RandomFlip' in names[:crop]:
        raise options.OptionError(
            key, f' flips before it crops, in {names}: put the flip after the crop'
        )
    if names.count('RandomFlip') > 1:
        raise options.OptionError(
            key,
            f' has {names.count("RandomFlip")} RandomFlip, of which the last overwrites what the '
            "others record: set one, direction=['horizontal', 'vertical', 'diagonal'] with a prob "
            'for each',
        )
    scales = [name for name in names[:crop] if name in SCALES]
    if scales:
        raise options.OptionError(
            key,
            f' has {scales[0]} before it crops, in {names}: the boxes of all views are in pixels '
            'of one image, so put it before the views',
        )


def _steps(pipeline: Compose, wrapper: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Names of transforms, in order, and the random wrapper that each of them is in."""
    for transform in pipeline.transforms:
        name = type(transform).__name__
        if isinstance(transform, TorchVisonTransformWrapper):
            yield f'torchvision/{type(transform.t).__name__}', wrapper
        elif name == 'Compose':
            yield from _steps(transform, wrapper)
        elif name in WRAPPERS:
            yield from _steps(transform, name)
        else:
            yield name, wrapper
