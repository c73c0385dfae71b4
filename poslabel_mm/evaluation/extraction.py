"""The features that a frozen model has of a dataset's images, and their classes.

Shape letters: M images, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from mmengine.dist import all_gather_object
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.features import image_features
from poslabel_mm.evaluation.frozen import call_with_whole_weights, inner_model
from poslabel_mm.evaluation.probe_images import ProbeImages


def preprocess(
    model: nn.Module, images: Tensor, data_samples: list | None
) -> tuple[Tensor, list | None]:
    """Images as a model gets them, from its own data preprocessor.

    Args:
        model (nn.Module): The model, not wrapped.
        images (Tensor): uint8 (B, 3, height, width), or what else the preprocessor takes.
        data_samples (list, optional): Theirs.

    Returns:
        tuple[Tensor, list | None]: Images (B, 3, height, width) on the model's device, and their
        data samples.
    """
    preprocessor = model.data_preprocessor
    if hasattr(preprocessor, 'second_mean'):
        # BEiT's takes an image and the one that its target is made from.
        images = [images] * 2
    data = preprocessor(dict(inputs=images, data_samples=data_samples), False)
    inputs = data['inputs']
    if isinstance(inputs, Sequence):  # of several views
        inputs = inputs[0]
    return inputs, data['data_samples']


def preprocessed(model: nn.Module, images: ProbeImages) -> Iterator[tuple[Tensor, list, Tensor]]:
    """Batches as a model gets them.

    Yields:
        tuple[Tensor, list, Tensor]: Images (B, 3, height, width) on the model's device, their data
        samples, and their numbers as of :meth:`ProbeImages.batches`.
    """
    for batch, numbers in images.batches():
        inputs, samples = preprocess(
            inner_model(model), batch['inputs'], batch.get('data_samples')
        )
        yield inputs, samples, numbers


def extract(model: nn.Module, images: ProbeImages) -> Tensor:
    """Features of all images, the same in every process.

    Args:
        model (nn.Module): Inside ``frozen``.
        images (ProbeImages): The images.

    Returns:
        Tensor: float32 (M, C), on the model's device.
    """
    features, _ = _extract(model, images, lambda sample: 0)
    return features


def extract_labelled(model: nn.Module, images: ProbeImages) -> tuple[Tensor, Tensor]:
    """Features of all images and their classes, the same in every process.

    Args:
        model (nn.Module): Inside ``frozen``.
        images (ProbeImages): The images.

    Returns:
        tuple[Tensor, Tensor]: float32 (M, C) and int64 (M,), on the model's device.

    Raises:
        UserError: If an image has no class, or several.
    """

    return _extract(model, images, partial(_class_of, images))


def check_classes(images: ProbeImages) -> None:
    """Refuse images that have no class each, by the first of them.

    Args:
        images (ProbeImages): The images.

    Raises:
        UserError: If it has no class, or several.
    """
    _class_of(images, images.first()['data_samples'])


def _class_of(images: ProbeImages, sample) -> int:
    label = None if sample is None else sample.get('gt_label')
    if label is None or label.numel() != 1:
        raise UserError(
            f'the images of {images.name} have no class each, which this probe needs: give it '
            'others, dataset=... and held_out=...'
        )
    return int(label)


def _extract(model: nn.Module, images: ProbeImages, label: Callable) -> tuple[Tensor, Tensor]:
    own = []
    for inputs, samples, numbers in preprocessed(model, images):
        features = call_with_whole_weights(model, image_features, inputs).float()
        labels = torch.tensor([label(sample) for sample in samples or [None] * len(numbers)])
        real = numbers >= 0
        own.append((features.cpu()[real], labels[real], numbers[real]))
    device = inputs.device
    features, labels, numbers = (torch.cat(column) for column in zip(*_of_all(own)))
    order = numbers.argsort()
    return features[order].to(device), labels[order].to(device)


def _of_all(own: list) -> list:
    return [part for parts in all_gather_object(own) for part in parts]
