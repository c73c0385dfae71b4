from .digits import Digits
from .fashion_mnist import FashionMNIST
from .load_missing_image import LoadMissingImage

__all__ = ['Digits', 'FashionMNIST', 'LoadMissingImage']
