"""`pos_encoding='rope'`: MMPretrain's rotary embedding in the attention of a plain ViT."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmpretrain.models.utils import RotaryEmbeddingFast
from models import apl_head, batch, build, classifier, tiny_vit
from selfsup_models import ALGORITHMS
from torch.utils.checkpoint import checkpoint

from poslabel_mm.errors import UserError
from poslabel_mm.models.backbones.rotary_encoding import RotaryEmbedding
from poslabel_mm.tokens import PatchTokenReader

pytestmark = pytest.mark.computes


def vit(**kwargs):
    return tiny_vit(
        **dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='rope') | kwargs
    )


def scores(embedding, grid, channels):
    """Of one query vector and one key vector that every patch has: (N, N)."""
    query, key = torch.randn(2, 1, 1, 1, channels, dtype=torch.float64)
    N = grid[0] * grid[1]
    query, key = (x.expand(1, 1, N, channels) for x in (query, key))
    query, key = (embedding(x, grid) for x in (query, key))
    return (query @ key.mT)[0, 0]


def spread_within_offsets(of_pairs, grid):
    """How much the scores of pairs of one offset differ, and those of different offsets."""
    H, W = grid
    rows, cols = torch.arange(H * W) // W, torch.arange(H * W) % W
    offset = (rows[:, None] - rows) * 2 * W + cols[:, None] - cols
    groups = [of_pairs[offset == value] for value in offset.unique()]
    means = torch.stack([group.mean() for group in groups])
    return max((group - group.mean()).abs().max() for group in groups), means.std()


@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (1, 6)])
@pytest.mark.parametrize('channels', [4, 8, 16])
def test_scores_depend_on_the_offset_of_two_patches_alone(grid, channels):
    embedding = RotaryEmbedding(channels, grid, num_extra_tokens=0).double()
    embedding.see_grid(None, None, (torch.zeros(()), grid))
    of_pairs = scores(lambda x, _: embedding(x), grid, channels)
    within, between = spread_within_offsets(of_pairs, grid)
    assert within < 1e-5
    assert between > 1e-2
    if channels > 4:  # the stock tables do not give that; if they come to, ours need not mend it
        stock = RotaryEmbeddingFast(channels, grid).double()
        assert spread_within_offsets(scores(stock, grid, channels), grid)[0] > 1e-2


def test_class_tokens_are_not_turned():
    embedding = RotaryEmbedding(8, (2, 3), num_extra_tokens=2)
    embedding.see_grid(None, None, (torch.zeros(()), (2, 3)))
    x = torch.randn(2, 4, 8, 8)
    turned = embedding(x)
    assert torch.equal(turned[:, :, :3], x[:, :, :3])  # the patch at (0, 0) neither
    assert not torch.isclose(turned[:, :, 3:], x[:, :, 3:]).all(dim=-1).any()
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_state_dict_is_that_of_a_vit_without_encoding():
    rope, none, stock = (
        build(vit()),
        build(vit(pos_encoding='none')),
        build(tiny_vit(), seed=3),
    )
    assert rope.state_dict().keys() == none.state_dict().keys()
    assert {name for name, _ in rope.named_parameters()} == set(rope.state_dict())
    # The same weights are drawn, whatever the encoding.
    for name, value in none.state_dict().items():
        assert torch.equal(rope.state_dict()[name], value), name
    rope.load_state_dict(stock.state_dict())  # strict: `pos_embed` is passed over
    rope(batch()[0]), rope(batch(2, 12, 20)[0])
    assert rope.state_dict().keys() == none.state_dict().keys()


@pytest.mark.parametrize('with_cls_token', [True, False])
def test_a_vit_sees_the_permutation_of_its_patches(with_cls_token):
    options = dict(with_cls_token=with_cls_token, out_type='featmap', img_size=(12, 20))
    images = batch(2, 12, 20)[0].double()
    moved = images.unflatten(2, (3, 4))[:, :, [2, 0, 1]].flatten(2, 3)
    for encoding, sees in dict(rope=True, none=False).items():
        model = build(vit(pos_encoding=encoding, **options), training=False).double()
        assert model(images)[0].shape[2:] == (3, 5)
        same = torch.allclose(model(moved)[0], model(images)[0][:, :, [2, 0, 1]])
        assert same is not sees


def test_other_resolutions_are_those_of_a_model_built_for_them():
    images = {size: batch(2, *size)[0] for size in [(16, 16), (8, 12), (12, 8), (16, 24)]}
    model = build(vit(), training=False)
    for size in [*images, (16, 16)]:
        built = build(vit(img_size=size), training=False)
        assert torch.equal(model(images[size])[0], built(images[size])[0])


def checkpointed(model, use_reentrant=False):
    """The model, with every layer under activation checkpointing of its own."""
    for layer in model.layers:
        layer.forward = lambda x, run=layer.forward: checkpoint(
            run, x, use_reentrant=use_reentrant
        )
    return model


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_activation_checkpointing_repeats_a_pass_of_another_resolution(use_reentrant):
    gradients = []
    for model in build(vit()), checkpointed(build(vit()), use_reentrant):
        large, small = model(batch(2, 16, 16)[0])[0], model(batch(2, 8, 12)[0])[0]
        with torch.no_grad():
            model(batch(2, 12, 8)[0])  # as many patches as the pass before, not to be repeated
        (large.sum() + small.square().sum()).backward()
        gradients.append(model.layers[0].attn.qkv.weight.grad)
    assert torch.equal(*gradients)


LANDSCAPE, PORTRAIT = (8, 12), (12, 8)  # of as many patches


def kept_open(model):
    """Gradients where a pass waits for its backward pass until those of others have run."""

    def loss(size):
        return model(batch(2, *size)[0].double())[0].square().sum()

    first = loss(LANDSCAPE)
    for size in LANDSCAPE, PORTRAIT, LANDSCAPE:
        loss(size).backward()
    second, third = loss(PORTRAIT), loss(LANDSCAPE)
    with torch.no_grad():
        loss(PORTRAIT)
    second.backward()
    loss(PORTRAIT).backward()
    (first + third).backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize('use_reentrant', [False, True])
@pytest.mark.parametrize('of', ['layers', 'attentions', 'frozen'])
def test_activation_checkpointing_repeats_each_pass_with_its_own_grid(use_reentrant, of):
    if of == 'frozen' and use_reentrant:
        pytest.skip('a re-entrant checkpoint needs an input with a gradient')
    gradients = []
    for model in build(vit()).double(), build(vit()).double():
        if of == 'frozen':
            for parameter in (model.cls_token, *model.patch_embed.parameters()):
                parameter.requires_grad = False
        if gradients and of == 'attentions':
            for layer in model.layers:
                checkpointed(SimpleNamespace(layers=[layer.attn]), use_reentrant)
        elif gradients:
            checkpointed(model, use_reentrant)
        gradients.append(kept_open(model))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('of', ['all', 'frozen'])
def test_what_checkpoints_keep_elsewhere_tells_no_grid(of):
    """As where activations are offloaded. Grids of which one pass at a time is open need not."""
    gradients = []
    for model in build(vit()).double(), checkpointed(build(vit()).double()):
        if of == 'frozen':
            for parameter in (model.cls_token, *model.patch_embed.parameters()):
                parameter.requires_grad = False

        def loss(size, model=model):
            return model(batch(2, *size)[0].double())[0].square().sum()

        with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
            losses = []
            for size in LANDSCAPE, PORTRAIT, LANDSCAPE:
                losses.append(
                    loss(size)
                )  # a loss that is kept keeps its graph, which is done with
                losses[-1].backward(retain_graph=True)
                losses[-1].backward()
            loss(PORTRAIT)  # never goes backward
            loss(LANDSCAPE).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        first, second = loss(LANDSCAPE), loss(PORTRAIT)
        for kept in second, first:
            with pytest.raises(UserError, match='grids of 2x3 and 3x2, 6 patches each.*layers'):
                kept.backward(retain_graph=True)


@pytest.mark.slow
def test_compiled_layers_are_not_repeated_with_another_grid():
    torch.compiler.reset()
    gradients = []
    for kind in 'plain', 'compiled', 'compiled and checkpointed':
        model = build(vit()).double()
        if kind != 'plain':
            layer = model.layers[1]
            layer.forward = torch.compile(layer.forward, backend='eager')

        def loss(size, model=model):
            return model(batch(2, *size)[0].double())[0].square().sum()

        if kind == 'compiled and checkpointed':
            checkpointed(model)
            loss(LANDSCAPE).backward(), loss(PORTRAIT).backward()
        else:  # nothing is repeated: both may be open
            (loss(LANDSCAPE) + loss(PORTRAIT)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0])
    both = loss(LANDSCAPE) + loss(PORTRAIT)
    with pytest.raises(UserError, match='grids of 2x3 and 3x2, 6 patches each.*uncompiled'):
        both.backward()


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_checkpointing_the_whole_model_repeats_any_grids(use_reentrant):
    gradients = []
    for wrapped in False, True:
        model = build(vit())
        losses = []
        for size in (8, 12), (12, 8):
            images = batch(2, *size)[0].requires_grad_()
            run = (
                (lambda x: checkpoint(model, x, use_reentrant=use_reentrant)) if wrapped else model
            )
            losses.append(run(images)[0].square().sum())
        sum(losses).backward()
        gradients.append(model.layers[0].attn.qkv.weight.grad)
    assert torch.equal(*gradients)


def test_autocast_keeps_the_attention_in_half_precision(monkeypatch):
    dtypes = []
    model = build(vit(), training=False)
    attend = model.layers[0].attn.scaled_dot_product_attention.args[1]

    def watch(query, key, value, **kwargs):
        dtypes.extend([query.dtype, key.dtype, value.dtype])
        return attend(query, key, value, **kwargs)

    rotated = model.layers[0].attn.scaled_dot_product_attention
    model.layers[0].attn.scaled_dot_product_attention = type(rotated)(
        rotated.func, rotated.args[0], watch
    )
    images = batch()[0]
    with torch.autocast('cpu', torch.bfloat16):
        half = model(images)[0]
    assert dtypes == [torch.bfloat16] * 3
    torch.testing.assert_close(half.float(), model(images)[0], atol=0.1, rtol=0.1)


def test_a_copy_has_a_rotation_of_its_own():
    model = build(vit(), training=False)
    images, small = batch()[0], batch(2, 8, 12)[0]
    before = model(images)[0]
    twin = copy.deepcopy(model)
    twin(small)
    assert twin.rope is not model.rope
    assert twin.layers[0].attn.scaled_dot_product_attention.args[0] is twin.rope
    assert model.rope.patch_resolution == (4, 4)
    assert torch.equal(model(images)[0], before)
    assert torch.equal(twin(images)[0], before)


@pytest.mark.parametrize('update_buffers', [False, True])
def test_a_moving_average_that_saw_another_resolution(update_buffers):
    from mmengine.model import ExponentialMovingAverage

    model = build(vit())
    average = ExponentialMovingAverage(model, momentum=0.1, update_buffers=update_buffers)
    with torch.no_grad():
        average(batch(2, 8, 12)[0])
    average.update_parameters(model)
    images = batch()[0]
    model.eval(), average.eval()
    assert torch.equal(average(images)[0], model(images)[0])


def test_heads_read_the_tokens_and_train():
    cfg = classifier(apl_head(), backbone=vit())
    losses = build(cfg).loss(*batch())
    assert losses['loss_apl'].isfinite()
    model = build(vit(out_type='featmap'), training=False)
    reader = PatchTokenReader(model)
    with reader:
        (maps,) = model(batch()[0])
    assert torch.equal(reader.take().tokens, maps.flatten(2).mT)


def test_mocov3_takes_it_too():
    mocov3 = ALGORITHMS['MoCo v3']
    cfg = mocov3.cfg() | dict(type='poslabel_mm.PositionalLabelMoCoV3', pos_head=apl_head())
    cfg['backbone'] |= dict(type='poslabel_mm.PositionalMoCoV3ViT', pos_encoding='rope')
    model = build(cfg)
    turns = []
    for encoder in model.backbone, model.momentum_encoder.module[0]:
        encoder.rope.register_forward_hook(
            lambda rope, inputs, output: turns.append((rope, inputs[0], output))
        )
    losses = model.loss(*mocov3.batch())
    for encoder in model.backbone, model.momentum_encoder.module[0]:
        own = [(x, turned) for rope, x, turned in turns if rope is encoder.rope]
        assert len(own) == 2 * 2 * 2  # queries and keys of two layers and two views
        for x, turned in own:
            moved = (x != turned).any(dim=-1).all(dim=(0, 1))  # by token
            assert moved.tolist() == [False] * 2 + [True] * 15  # but for class token and (0, 0)
    (losses['loss_view'] + losses['loss_apl']).backward()
    assert not any('rope' in name or 'pos_embed' in name for name in model.state_dict())


def test_heads_that_it_cannot_turn_are_refused():
    arch = dict(embed_dims=12, num_layers=1, num_heads=2, feedforward_channels=12)
    with pytest.raises(UserError, match='^pos_encoding=.rope. .*embed_dims=12 have 6 channels'):
        build(vit(arch=arch))


@pytest.mark.parametrize('kind', ['MAE', 'MAE-HiViT'])
def test_a_masked_encoder_does_not_take_it(kind):
    cfg = ALGORITHMS[kind].cfg()['backbone']
    cfg = cfg | dict(type='poslabel_mm.Positional' + cfg['type'], pos_encoding='rope')
    with pytest.raises(UserError, match='^pos_encoding=.rope. is unknown; choose from'):
        build(cfg)
