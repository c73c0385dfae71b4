"""How a config resizes the images of its test, in the terms of other libraries."""

from typing import Any, NamedTuple

from mmengine.config import Config

# The numbers of Pillow, which Hugging Face's processors take.
RESAMPLING = dict(nearest=0, lanczos=1, bilinear=2, bicubic=3, box=4, area=4, hamming=5)
OTHERS = ('LoadImageFromFile', 'PackInputs')


class ResizedAndCropped(NamedTuple):
    """A shorter edge that images are resized to, and the centre that is cut out of them.

    Attributes:
        edge (int): In pixels.
        crop (int): The side of the square that is cut out, in pixels.
        interpolation (str): As MMPretrain names it.
    """

    edge: int
    crop: int
    interpolation: str


def resized_and_cropped(cfg: Config) -> ResizedAndCropped | None:
    """What the config's test does with an image, or None if it does something else.

    Args:
        cfg (Config): The config.
    """
    dataset = (cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}).get('dataset') or {}
    while not dataset.get('pipeline') and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    steps: list[tuple[str, Any]] = [
        (step['type'].rpartition('.')[2], step)
        for step in dataset.get('pipeline') or ()
        if isinstance(step.get('type'), str)
    ]
    steps = [(name, step) for name, step in steps if name not in OTHERS]
    if [name for name, _ in steps] != ['ResizeEdge', 'CenterCrop']:
        return None
    (_, resize), (_, crop) = steps
    side, interpolation = crop['crop_size'], resize.get('interpolation', 'bilinear')
    if isinstance(side, (tuple, list)):
        if len(set(side)) > 1:
            return None
        side = side[0]
    if resize.get('edge', 'short') != 'short' or interpolation not in RESAMPLING:
        return None
    return ResizedAndCropped(int(resize['scale']), int(side), interpolation)
