from .backbones import (PositionalMAEHiViT, PositionalMAEViT,
                        PositionalVisionTransformer)
from .classifiers import PositionalLabelClassifier
from .heads import PositionalLabelHead
from .selfsup import *  # noqa: F401,F403
from .selfsup import __all__ as _algorithms

__all__ = [
    'PositionalLabelClassifier', 'PositionalLabelHead', 'PositionalMAEHiViT',
    'PositionalMAEViT', 'PositionalVisionTransformer'
] + _algorithms
