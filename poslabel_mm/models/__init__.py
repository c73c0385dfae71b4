from .backbones import PositionalVisionTransformer
from .classifiers import PositionalLabelClassifier
from .heads import PositionalLabelHead

__all__ = [
    'PositionalLabelClassifier', 'PositionalLabelHead',
    'PositionalVisionTransformer'
]
