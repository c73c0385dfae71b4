from .positional_label_head import PositionalLabelHead

__all__ = ['PositionalLabelHead']
