from .axial_relative_label_head import AxialRelativeLabelHead
from .offset_regression_head import OffsetRegressionHead
from .position_regression_head import PositionRegressionHead
from .positional_label_head import PositionalLabelHead
from .relative_positional_label_head import RelativePositionalLabelHead
from .swapped_encoding_head import SwappedEncodingHead
from .view_offset_head import ViewOffsetHead

__all__ = [
    'AxialRelativeLabelHead',
    'OffsetRegressionHead',
    'PositionRegressionHead',
    'PositionalLabelHead',
    'RelativePositionalLabelHead',
    'SwappedEncodingHead',
    'ViewOffsetHead',
]
