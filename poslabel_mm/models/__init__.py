from .backbones import PositionalSwinTransformer, PositionalVisionTransformer
from .classifiers import PositionalLabelClassifier
from .heads import PositionalLabelHead, RelativePositionalLabelHead
from .necks import PatchTokenNeck

__all__ = [
    'PatchTokenNeck', 'PositionalLabelClassifier', 'PositionalLabelHead',
    'PositionalSwinTransformer', 'PositionalVisionTransformer',
    'RelativePositionalLabelHead'
]
