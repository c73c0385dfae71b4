from .backbones import (
    PositionalMAEHiViT,
    PositionalMAEViT,
    PositionalMoCoV3ViT,
    PositionalSwinTransformer,
    PositionalVisionTransformer,
)
from .classifiers import PositionalLabelClassifier
from .heads import AxialRelativeLabelHead, PositionalLabelHead, RelativePositionalLabelHead
from .necks import PatchTokenNeck
from .selfsup import *  # noqa: F401,F403
from .selfsup import __all__ as _algorithms

__all__ = [
    'AxialRelativeLabelHead',
    'PatchTokenNeck',
    'PositionalLabelClassifier',
    'PositionalLabelHead',
    'PositionalMAEHiViT',
    'PositionalMAEViT',
    'PositionalMoCoV3ViT',
    'PositionalSwinTransformer',
    'PositionalVisionTransformer',
    'RelativePositionalLabelHead',
] + _algorithms
