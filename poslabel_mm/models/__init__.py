from .backbones import PositionalSwinTransformer, PositionalVisionTransformer
from .classifiers import PositionalLabelClassifier
from .heads import PositionalLabelHead

__all__ = [
    'PositionalLabelClassifier', 'PositionalLabelHead',
    'PositionalSwinTransformer', 'PositionalVisionTransformer'
]
