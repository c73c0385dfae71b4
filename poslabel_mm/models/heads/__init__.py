from .positional_label_head import PositionalLabelHead
from .relative_positional_label_head import RelativePositionalLabelHead

__all__ = ['PositionalLabelHead', 'RelativePositionalLabelHead']
