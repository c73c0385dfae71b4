from .digits import Digits
from .fashion_mnist import FashionMNIST

__all__ = ['Digits', 'FashionMNIST']
