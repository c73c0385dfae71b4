from .axial_relative_label_head import AxialRelativeLabelHead
from .positional_label_head import PositionalLabelHead
from .relative_positional_label_head import RelativePositionalLabelHead

__all__ = ['AxialRelativeLabelHead', 'PositionalLabelHead', 'RelativePositionalLabelHead']
