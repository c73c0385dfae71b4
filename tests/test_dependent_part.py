"""Parts of a model that are checked once it is built."""

import pytest
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.build import check_model
from poslabel_mm.models.dependent_part import DependentPart


class Part(nn.Module):
    def check_model(self, model=None):
        raise UserError(f'checked with {type(model).__name__}')


class OwnPart(DependentPart, Part):
    check_model = Part.check_model


@pytest.fixture
def model(monkeypatch):
    class Model(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = MODELS.build(part)

    for cls in Model, Part, OwnPart:
        monkeypatch.setitem(MODELS.module_dict, cls.__name__, cls)
    return lambda part: Config(
        dict(default_scope='mmpretrain', model=dict(type='Model', part=dict(type=part)))
    )


def test_a_part_is_checked_with_its_model(model):
    with pytest.raises(UserError, match='checked with Model'):
        check_model(model('OwnPart'))


def test_a_method_of_that_name_in_another_library_is_not_called(model):
    check_model(model('Part'))
