from .positional_label_classifier import PositionalLabelClassifier

__all__ = ['PositionalLabelClassifier']
