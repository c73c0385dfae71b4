from .positional_swin import PositionalSwinTransformer
from .positional_vit import PositionalVisionTransformer

__all__ = ['PositionalSwinTransformer', 'PositionalVisionTransformer']
