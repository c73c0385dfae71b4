"""Where each dataset of the configs is expected, and how it gets there."""

from typing import NamedTuple


class Source(NamedTuple):
    """How to get a dataset.

    Args:
        title (str): Its name.
        folder (str): Where the configs expect it.
        origin (str): Where it is published.
        advice (str): What to do where it is missing, as a part of a sentence.
    """

    title: str
    folder: str
    origin: str
    advice: str


_IMAGENET = 'https://image-net.org/challenges/LSVRC/2012'
_SPLIT_FILES = 'https://github.com/twitter-research/meta-learning-lstm, data/miniImagenet'
_CALTECH256 = 'https://data.caltech.edu/records/nyy15-4j048'
_IMAGENETTE = 'https://github.com/fastai/imagenette'
_FASHION_MNIST = 'https://github.com/zalandoresearch/fashion-mnist'

IMAGENET = Source(
    'ImageNet-1K',
    'data/imagenet',
    _IMAGENET,
    f'unpack ImageNet-1K ({_IMAGENET}) there and check it with '
    '`poslabel convert imagenet --check data/imagenet`',
)
MINI_IMAGENET = Source(
    'Mini-ImageNet',
    'data/mini_imagenet',
    _SPLIT_FILES,
    'prepare Mini-ImageNet from ImageNet-1K and the split files of '
    f'{_SPLIT_FILES} with `poslabel convert mini-imagenet data/imagenet --csv FOLDER`',
)
CALTECH256 = Source(
    'Caltech-256',
    'data/caltech256',
    _CALTECH256,
    f'prepare Caltech-256 ({_CALTECH256}) with `poslabel convert caltech256 256_ObjectCategories`',
)
IMAGENETTE = Source(
    'Imagenette',
    'data/imagenette',
    _IMAGENETTE,
    f'unpack imagenette2-160.tgz ({_IMAGENETTE}) with '
    '`tar xf imagenette2-160.tgz -C data && mv data/imagenette2-160 data/imagenette`',
)
FASHION_MNIST = Source(
    'Fashion-MNIST',
    'data/fashion_mnist',
    _FASHION_MNIST,
    'install it with `apt-get install dataset-fashion-mnist`, or put the four '
    f'files of {_FASHION_MNIST} there',
)

SOURCES = (IMAGENET, MINI_IMAGENET, CALTECH256, IMAGENETTE, FASHION_MNIST)
