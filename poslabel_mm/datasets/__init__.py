"""Datasets of our own, and how others are brought into the layout that the configs read.

:mod:`poslabel_mm.registry` names the modules of datasets: nothing is imported here, for
:mod:`.sources` is read where the MM stack is not to be imported.
"""

import importlib

_MODULES = {
    'DecodedImages': 'decoded_images',
    'Digits': 'digits',
    'FashionMNIST': 'fashion_mnist',
    'FashionMNISTScenes': 'fashion_mnist_scenes',
    'FractionDataset': 'fraction_dataset',
    'LoadMissingImage': 'load_missing_image',
}

__all__ = [
    'DecodedImages',
    'Digits',
    'FashionMNIST',
    'FashionMNISTScenes',
    'FractionDataset',
    'LoadMissingImage',
]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
