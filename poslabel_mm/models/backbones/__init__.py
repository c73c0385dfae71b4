from .causal_vit import CausalVisionTransformer
from .deit_vit import DeiTVisionTransformer
from .positional_mae_hivit import PositionalMAEHiViT
from .positional_mae_vit import PositionalMAEViT
from .positional_mocov3_vit import PositionalMoCoV3ViT
from .positional_swin import PositionalSwinTransformer
from .positional_vit import PositionalVisionTransformer

__all__ = [
    'CausalVisionTransformer',
    'DeiTVisionTransformer',
    'PositionalMAEHiViT',
    'PositionalMAEViT',
    'PositionalMoCoV3ViT',
    'PositionalSwinTransformer',
    'PositionalVisionTransformer',
]
