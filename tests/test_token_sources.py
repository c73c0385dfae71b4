"""Every form in which a module gives its tokens or its grid has a reader of its own."""

import pytest
import torch
from backbones import OTHERS, TRANSFORMERS
from models import build

from poslabel_mm.tokens import sources
from poslabel_mm.tokens.families import token_source

pytestmark = pytest.mark.computes

B, H, W, C = 2, 3, 4, 5
MAP = torch.arange(B * C * H * W).view(B, C, H, W)
TOKENS = MAP.flatten(2).transpose(1, 2)
POOLED = TOKENS.sum(1)

FORMS = {
    sources.feature_map: MAP,
    sources.channels_last_map: MAP.permute(0, 2, 3, 1),
    sources.tokens_on_grid: TOKENS,
    sources.tokens_with_grid: (TOKENS, (H, W)),
}


@pytest.mark.parametrize('read', FORMS, ids=lambda read: read.__name__)
def test_a_form_gives_its_tokens_and_their_grid(read):
    tokens, grid_shape = read(FORMS[read], (H, W))
    assert torch.equal(tokens, TOKENS) and grid_shape == (H, W)


@pytest.mark.parametrize('read', FORMS, ids=lambda read: read.__name__)
@pytest.mark.parametrize('value', [POOLED, (POOLED,), [], (TOKENS, POOLED, None), None])
def test_another_form_gives_nothing(read, value):
    assert read(value, (H, W)) is None


def test_tokens_alone_have_no_grid():
    assert sources.tokens_on_grid(TOKENS, None) is None


@pytest.mark.parametrize('several', [tuple, list])
def test_the_last_of_several_maps_counts(several):
    tokens, _ = sources.feature_map(several([MAP + 1, MAP]))
    assert torch.equal(tokens, TOKENS)


@pytest.mark.parametrize('value', [MAP, (MAP,), TOKENS, (TOKENS,)])
def test_a_map_or_tokens(value):
    tokens, grid_shape = sources.map_or_tokens(value, (H, W))
    assert torch.equal(tokens, TOKENS) and grid_shape == (H, W)


class TimmPatches(torch.nn.Module):
    def dynamic_feat_size(self, image_size):
        return tuple(side // 8 for side in image_size)


@pytest.mark.parametrize(
    'read, arguments',
    [
        (sources.grid_beside_patches, (None, (), (TOKENS, [H, W]))),
        (sources.grid_of_output_map, (None, (), MAP)),
        (sources.grid_of_input_map, (None, (MAP,), TOKENS)),
        (sources.timm_dynamic_grid, (TimmPatches(), (torch.empty(1, 3, 8 * H, 8 * W),), TOKENS)),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_a_grid_reader(read, arguments):
    assert read(*arguments) == (H, W)


@pytest.mark.parametrize(
    'name, stage, read',
    [
        ('VisionTransformer', 1, sources.tokens_on_grid),
        ('ViTSAM', 1, sources.channels_last_map),
        ('SwinTransformer', 0, sources.tokens_with_grid),
        ('TinyViT', 0, sources.feature_map),
        ('TinyViT', 1, sources.tokens_on_grid),
        ('ResNet', 2, sources.feature_map),
        ('ResNet', None, sources.feature_map),
    ],
)
def test_a_family_names_the_reader_of_its_form(name, stage, read):
    model = build((TRANSFORMERS | OTHERS)[name]['model']['backbone'])
    assert token_source(model, stage).read is read
