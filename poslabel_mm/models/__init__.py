from .backbones import (
    CausalVisionTransformer,
    PositionalMAEHiViT,
    PositionalMAEViT,
    PositionalMoCoV3ViT,
    PositionalSwinTransformer,
    PositionalVisionTransformer,
)
from .classifiers import PositionalLabelClassifier
from .heads import (
    AxialRelativeLabelHead,
    OffsetRegressionHead,
    PositionalLabelHead,
    PositionRegressionHead,
    RelativePositionalLabelHead,
    SwappedEncodingHead,
    ViewOffsetHead,
)
from .necks import DINONeck, PatchTokenNeck, SimpleFeaturePyramid
from .selfsup import *  # noqa: F401,F403
from .selfsup import __all__ as _algorithms

__all__ = [
    'AxialRelativeLabelHead',
    'CausalVisionTransformer',
    'DINONeck',
    'OffsetRegressionHead',
    'PatchTokenNeck',
    'PositionRegressionHead',
    'PositionalLabelClassifier',
    'PositionalLabelHead',
    'PositionalMAEHiViT',
    'PositionalMAEViT',
    'PositionalMoCoV3ViT',
    'PositionalSwinTransformer',
    'PositionalVisionTransformer',
    'RelativePositionalLabelHead',
    'SimpleFeaturePyramid',
    'SwappedEncodingHead',
    'ViewOffsetHead',
] + _algorithms
