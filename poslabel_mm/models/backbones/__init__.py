from .positional_mae_hivit import PositionalMAEHiViT
from .positional_mae_vit import PositionalMAEViT
from .positional_swin import PositionalSwinTransformer
from .positional_vit import PositionalVisionTransformer

__all__ = [
    'PositionalMAEHiViT', 'PositionalMAEViT', 'PositionalSwinTransformer',
    'PositionalVisionTransformer'
]
