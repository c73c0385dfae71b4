"""MMPretrain imports beside transformers 5, with pycocotools too, which MMDetection brings.

Where both are installed it imports its multimodal models, which need transformers 4, and fails.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

DEPENDENCY = 'mmpretrain.utils.dependency'


@contextmanager
def with_transformers_4_only() -> Iterator[None]:
    """Have MMPretrain take its multimodal models for not installed beside transformers 5."""
    yield
    dependency = sys.modules[DEPENDENCY]
    if dependency.satisfy_requirement('transformers>=5'):
        dependency.WITH_MULTIMODAL = False
