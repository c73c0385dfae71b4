"""Heads and the reader in a training loop of plain PyTorch, on models of other libraries."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models import PositionalLabelHead, RelativePositionalLabelHead
from poslabel_mm.tokens import PatchTokenReader, PatchTokens

timm = pytest.importorskip('timm')
pytestmark = pytest.mark.computes

EXAMPLE = Path(__file__).resolve().parents[1] / 'examples/timm_vit.py'
TINY = dict(img_size=32, embed_dim=16, depth=1, num_heads=2, num_classes=3)


def timm_vit(name='vit_tiny_patch16_224', **kwargs):
    return timm.create_model(name, **TINY | dict(patch_size=8) | kwargs)


def read(model, images):
    reader = PatchTokenReader(model)
    with reader:
        output = model(images)
    return reader.take(), output


def test_the_example_learns_digits_and_places(capsys):
    runpy.run_path(str(EXAMPLE), run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    figures = [
        re.fullmatch(r'epoch \d: (.+) % of 297 digits, (.+) % of the places', x) for x in lines
    ]
    digits, places = zip(*((float(x) for x in figure.groups()) for figure in figures))
    assert digits[-1] > digits[0] and places[-1] > places[0]
    assert digits[-1] > 30 and places[-1] > 80  # by chance 10 % and 6 %


@pytest.mark.parametrize(
    'options, prefix',
    [(dict(), 1), (dict(class_token=False, global_pool='avg'), 0), (dict(reg_tokens=2), 3)],
)
@pytest.mark.parametrize('size', [(32, 32), (16, 40)])
def test_the_tokens_of_timms_vit(options, prefix, size):
    model = timm_vit(dynamic_img_size=True, **options).eval()
    images = torch.randn(2, 3, *size)
    (tokens, grid_shape, indices), output = read(model, images)
    assert torch.equal(output, model(images))
    assert grid_shape == (size[0] // 8, size[1] // 8) and indices is None
    features = model.forward_features(images)[:, prefix:]
    if options.get('global_pool') == 'avg':  # normalised once they are averaged
        features = nn.functional.layer_norm(features, features.shape[-1:])
    assert torch.equal(tokens, features)


def test_the_feature_map_of_timms_swin():
    model = timm.create_model(
        'swin_tiny_patch4_window7_224',
        img_size=32, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(1, 2), num_classes=3,
    ).eval()  # fmt: skip
    images = torch.randn(2, 3, 32, 32)
    (tokens, grid_shape, _), _ = read(model, images)
    assert grid_shape == (4, 4)
    assert torch.equal(tokens, model.forward_features(images).flatten(1, 2))


def test_a_subclass_is_read_as_the_model():
    class Mine(type(timm_vit())):
        pass

    images = torch.randn(2, 3, 32, 32)
    model = Mine(patch_size=8, **TINY).eval()
    (tokens, grid_shape, _), _ = read(model, images)
    assert grid_shape == (4, 4)
    assert torch.equal(tokens, model.forward_features(images)[:, 1:])


def test_torchvisions_transformers():
    from torchvision.models import SwinTransformer, VisionTransformer

    images = torch.randn(2, 3, 32, 32)
    vit = VisionTransformer(32, 8, 1, 2, 16, 16).eval()
    (tokens, grid_shape, _), _ = read(vit, images)
    assert grid_shape == (4, 4) and tokens.shape == (2, 16, 16)
    place = 5  # a change of a patch shows most in its own token
    changed = images.clone()
    changed[:, :, 8:16, 8:16] += 1
    difference = (read(vit, changed)[0].tokens - tokens).norm(dim=-1)
    assert (difference.argmax(dim=1) == place).all()

    swin = SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4]).eval()
    (tokens, grid_shape, _), _ = read(swin, images)
    assert grid_shape == (4, 4) and tokens.shape == (2, 16, 32)


def test_a_model_without_known_tokens_is_refused():
    with pytest.raises(UserError, match=r"^timm's ResNet has no module `norm`.*PatchTokens\("):
        PatchTokenReader(timm.create_model('resnet10t'))


@pytest.mark.parametrize('head', [PositionalLabelHead, RelativePositionalLabelHead])
def test_a_head_takes_any_tokens(head):
    head = head(in_channels=6, grid_size=(2, 3))
    tokens = torch.randn(4, 6, 6, requires_grad=True)
    losses = head.loss(PatchTokens(tokens, (2, 3)))
    losses[head.loss_name].backward()
    assert tokens.grad.any()
    some = head.loss(PatchTokens(tokens[:, :2], (2, 3), torch.tensor([[5, 0]] * 4)))
    assert some[head.loss_name].isfinite()
