from .patch_token_neck import PatchTokenNeck

__all__ = ['PatchTokenNeck']
