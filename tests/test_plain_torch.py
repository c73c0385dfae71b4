"""Heads and the reader in a training loop of plain PyTorch, on models of other libraries."""

import math
import re
import runpy
from pathlib import Path

import pytest
import sklearn.datasets
import torch
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models import PositionalLabelHead, heads
from poslabel_mm.models.heads.base_pair_head import BasePairHead
from poslabel_mm.models.heads.base_token_head import BaseTokenHead
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


def test_the_example_trains_model_and_head(capsys, monkeypatch):
    images, classes = sklearn.datasets.load_digits(return_X_y=True)
    monkeypatch.setattr(sklearn.datasets, 'load_digits', lambda **_: (images[:120], classes[:120]))
    torch.manual_seed(0)
    example = runpy.run_path(str(EXAMPLE), run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    text = EXAMPLE.read_text('utf-8').rpartition('"""')[2]
    code = [line for line in text.splitlines() if line.strip() and not line.startswith('#')]
    assert len(code) == 20
    for epoch, line in enumerate(lines, start=1):
        figures = re.fullmatch(rf'epoch {epoch}: loss (.+), (.+) % of the places', line)
        assert all(math.isfinite(float(x)) for x in figures.groups())
    model, head, reader = (example[name] for name in ('model', 'head', 'reader'))
    torch.manual_seed(0)
    untrained = timm.create_model('vit_tiny_patch16_224', num_classes=10, **example['vit'])
    for module, before in (model, untrained), (head, PositionalLabelHead(64, 4)):
        for (name, parameter), start in zip(module.named_parameters(), before.parameters()):
            assert parameter.isfinite().all() and not torch.equal(parameter, start), name
    # The labels alone train the model, too.
    model.zero_grad(), head.zero_grad()
    with reader:
        model(example['images'][:4])
    head.loss(reader.take())['loss_apl'].backward()
    assert model.patch_embed.proj.weight.grad.any() and head.fc1.weight.grad.any()


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


def heads_of(*bases):
    """The heads of poslabel_mm with one of these bases."""
    return [head for name in heads.__all__ if issubclass(head := getattr(heads, name), bases)]


@pytest.mark.parametrize('head', heads_of(BaseTokenHead, BasePairHead))
def test_a_head_takes_any_tokens(head):
    head = head(in_channels=6, grid_size=(2, 3))
    tokens = torch.randn(4, 6, 6, requires_grad=True)
    losses = head.loss(PatchTokens(tokens, (2, 3)))
    losses[head.loss_name].backward()
    assert tokens.grad.any()
    some = head.loss(PatchTokens(tokens[:, :2], (2, 3), torch.tensor([[5, 0]] * 4)))
    assert some[head.loss_name].isfinite()
    assert head.predict(PatchTokens(tokens, (2, 3))).grid_shape == (2, 3)


@pytest.mark.parametrize(
    'head, drawing',
    [
        *((head, dict(pairs_per_token=3)) for head in heads_of(BasePairHead)),
        *((head, dict(label_ratio=0.2)) for head in heads_of(BaseTokenHead)),
    ],
)
def test_a_seed_for_each_step_decides_what_the_step_draws(head, drawing):
    tokens = PatchTokens(torch.randn(4, 24, 6), (4, 6))
    first, second = (
        head(6, (4, 6), init_cfg=dict(type='Xavier', layer='Linear'), **drawing) for _ in range(2)
    )
    first.init_weights()
    second.load_state_dict(first.state_dict())

    def losses(head, seeds):
        values = []
        for seed in seeds:
            torch.manual_seed(seed)
            values.append(head.loss(tokens)[head.loss_name].item())
        return values

    steps = losses(first, range(4))
    assert losses(second, [3]) == steps[3:]  # whatever was drawn before
    assert len(set(steps)) == 4
    assert losses(second, [3]) != steps[3:]  # the same seed again goes on
