from .positional_vit import PositionalVisionTransformer

__all__ = ['PositionalVisionTransformer']
