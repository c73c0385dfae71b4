"""MMPretrain beside transformers 5 and pycocotools."""

import pytest
from mmpretrain.utils import dependency

from poslabel_mm.stack.multimodal import with_transformers_4_only


@pytest.mark.parametrize('transformers', [4, 5])
def test_multimodal_models_are_imported_beside_transformers_4_alone(transformers, monkeypatch):
    monkeypatch.setattr(dependency, 'WITH_MULTIMODAL', True)
    monkeypatch.setattr(
        dependency, 'satisfy_requirement', {'transformers>=5': transformers == 5}.__getitem__
    )
    with with_transformers_4_only():
        assert dependency.WITH_MULTIMODAL
    assert dependency.WITH_MULTIMODAL is (transformers == 4)
