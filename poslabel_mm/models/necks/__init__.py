from .dino_neck import DINONeck
from .patch_token_neck import PatchTokenNeck
from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ['DINONeck', 'PatchTokenNeck', 'SimpleFeaturePyramid']
