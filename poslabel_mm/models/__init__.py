from .backbones import PositionalVisionTransformer
from .classifiers import PositionalLabelClassifier
from .heads import PositionalLabelHead, RelativePositionalLabelHead

__all__ = [
    'PositionalLabelClassifier', 'PositionalLabelHead',
    'PositionalVisionTransformer', 'RelativePositionalLabelHead'
]
