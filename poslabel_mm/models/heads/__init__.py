from .positional_label_head import PositionalLabelHead
from .relative_positional_label_head import RelativePositionalLabelHead
from .view_offset_head import ViewOffsetHead

__all__ = ['PositionalLabelHead', 'RelativePositionalLabelHead', 'ViewOffsetHead']
