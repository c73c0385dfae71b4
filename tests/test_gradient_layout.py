"""Gradients have their parameters' strides, as DDP expects."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from poslabel_mm.engine import GradientLayoutHook

pytestmark = pytest.mark.computes


class ClassToken(nn.Module):
    """Prepends a class token as the stock ViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.randn(1, 7, 4))

    def forward(self, tokens):
        return torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), 1) * self.pos_embed


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def _gradients(images, hook=None):
    torch.manual_seed(0)
    model = DistributedDataParallel(ClassToken())
    if hook is not None:
        hook.before_train(SimpleNamespace(model=model))
    model(torch.randn(images, 6, 4)).square().sum().backward()
    return {name: (p.grad, p.stride()) for name, p in model.module.named_parameters()}


@pytest.mark.parametrize('images', [1, 3])
def test_strides_are_the_parameters_and_values_the_same(one_process, images):
    stock = _gradients(images)
    ours = _gradients(images, GradientLayoutHook())
    for name, (gradient, strides) in ours.items():
        assert gradient.stride() == strides
        assert torch.equal(gradient, stock[name][0])


def test_other_layouts_are_left_alone():
    hook = GradientLayoutHook()
    model = nn.Conv2d(3, 4, 2)
    hook.before_train(SimpleNamespace(model=model))  # not distributed
    assert not model.weight._backward_hooks
    from poslabel_mm.engine.hooks.gradient_layout_hook import with_strides

    transposed = torch.randn(1, 3, 2).transpose(1, 2)
    assert with_strides((6, 3, 1), transposed) is transposed
