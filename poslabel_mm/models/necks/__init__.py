from .dino_neck import DINONeck
from .patch_token_neck import PatchTokenNeck

__all__ = ['DINONeck', 'PatchTokenNeck']
