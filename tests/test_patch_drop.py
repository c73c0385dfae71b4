"""Patches that are left out in training, as of DILEMMA's sparse student."""

import pytest
import torch
from models import apl_head, batch, build, classifier, tiny_vit
from selfsup_models import HEADS, LABELS, igpt
from test_encoding_swap import length_of_training, mocov3, swap_head  # noqa: F401
from test_self_supervised_labels import leave_tokens_alone, marked_images
from torch.utils.checkpoint import checkpoint

from poslabel_mm.errors import UserError
from poslabel_mm.tokens import PatchTokenReader

pytestmark = pytest.mark.computes


def vit(rate=0.5, **kwargs):
    own = dict(type='poslabel_mm.PositionalVisionTransformer', patch_drop_rate=rate)
    return tiny_vit(**own | kwargs)


def watch(backbone):
    """What every pass gives its first layer, and the places that it says it has kept."""
    seen = []
    backbone.layers[0].register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[0], backbone.kept_places))
    )
    return seen


def at(tokens, places):
    return tokens.take_along_dim(places.unsqueeze(-1), dim=1)


@pytest.mark.parametrize(
    'rate, side, count', [(0.5, 16, 8), (0.3, 16, 11), (0.99, 16, 1), (0.01, 16, 16), (0.5, 12, 4)]
)
def test_as_many_patches_of_every_image_are_left(rate, side, count):
    images, _ = batch(6, side, side)
    ours, stock = build(vit(rate)), build(vit(0))
    seen, whole = watch(ours), watch(stock)
    ours(images), ours(images), stock(images)
    for tokens, places in seen:
        assert places.shape == (6, count)
        assert (
            (places.diff(dim=1) > 0).all()
            and 0 <= places.min()
            and places.max() < (side // 4) ** 2
        )
        # The class token, and the patches that are left with their own encoding.
        assert torch.equal(tokens[:, :1], whole[0][0][:, :1])
        assert torch.equal(tokens[:, 1:], at(whole[0][0][:, 1:], places))
    assert whole[0][1] is None
    if count > 1 and rate > 0.1:
        assert not torch.equal(seen[0][1], seen[1][1])


@torch.no_grad()
def outputs(model, images):
    torch.manual_seed(4)
    return model(images)[0]


def test_evaluation_and_passes_without_gradient_are_the_stock_model():
    images, _ = batch()
    stock, ours = build(tiny_vit(drop_rate=0.1)), build(vit(drop_rate=0.1, pos_swap=0.3))
    assert ours.state_dict().keys() == stock.state_dict().keys()
    ours(images)  # leaves patches out
    for training in True, False:
        ours.train(training), stock.train(training)
        assert torch.equal(outputs(ours, images), outputs(stock, images))
        assert ours.kept_places is None


@pytest.mark.parametrize('kind', ['raw', 'avg_featmap', 'cls_token', 'stage'])
def test_every_token_has_the_label_of_its_patch(kind):
    out_type = 'cls_token' if kind == 'stage' else kind
    backbone = build(vit(img_size=(16, 24), out_type=out_type))
    reader = PatchTokenReader(backbone, 0 if kind == 'stage' else None)
    model = torch.nn.Module()
    model.backbone = backbone
    if kind == 'stage':
        backbone.layers[0].attn.proj.weight.data.zero_()
        backbone.layers[0].ffn.layers[1].weight.data.zero_()
        for bias in backbone.layers[0].attn.proj.bias, backbone.layers[0].ffn.layers[1].bias:
            bias.data.zero_()
        layers = backbone.layers[0]
    leave_tokens_alone(model)
    if kind == 'stage':
        backbone.layers[0] = layers
    with reader:
        backbone(marked_images((4, 3, 16, 24), (4, 6)))
    tokens, grid_shape, indices = reader.take()
    assert grid_shape == (4, 6) and indices.shape == (4, 12)
    assert torch.equal(tokens[..., 0], indices + 1.0)


@pytest.mark.parametrize('kind', HEADS)
def test_heads_read_what_is_left(kind):
    model = build(classifier([HEADS[kind](), swap_head()], backbone=vit(pos_swap=0.3)))
    model.double()
    images, samples = batch(3)
    given = []
    for head in model.pos_head:
        head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].shape))
    losses = model.loss(images.double(), samples)
    assert {'loss_cls', f'loss_{LABELS[kind]}', 'loss_swap'} <= set(losses)
    model.parse_losses(losses)[0].backward()
    assert model.backbone.pos_embed.grad.any()
    assert model.backbone.swapped_patches.shape == model.backbone.kept_places.shape == (3, 8)


@pytest.mark.parametrize('share, swapped', [(0.3, 2), (0.9, 7)])
def test_encodings_are_exchanged_among_those_that_are_left(share, swapped):
    backbone = build(vit(pos_swap=share))
    seen, patches = watch(backbone), []
    backbone.patch_embed.register_forward_hook(lambda _, __, output: patches.append(output[0]))
    backbone(batch(6)[0])
    tokens, places = seen[0]
    encoding = backbone.pos_embed[:, 1:]
    # [B, token, place]
    same = tokens[:, 1:].unsqueeze(2) == at(patches[0], places).unsqueeze(2) + encoding
    found = same.all(-1)
    assert torch.equal(found.sum(-1), torch.ones(6, 8, dtype=torch.int64))
    encodings = found.byte().argmax(-1)
    assert torch.equal(encodings.sort(dim=1).values, places)  # each is there once
    assert torch.equal(encodings != places, backbone.swapped_patches)
    assert backbone.swapped_patches.sum(1).tolist() == [swapped] * 6


def test_encodings_are_dropped_of_those_that_are_left():
    backbone = build(vit(pos_drop=dict(patches=0.5)))
    seen, patches = watch(backbone), []
    backbone.patch_embed.register_forward_hook(lambda _, __, output: patches.append(output[0]))
    backbone(batch(6)[0])
    tokens, places = seen[0]
    assert (tokens[:, 1:] == at(patches[0], places)).all(-1).sum(1).tolist() == [4] * 6


def test_the_momentum_encoder_of_mocov3_has_all_patches():
    cfg = mocov3([swap_head(), apl_head()], type='poslabel_mm.PositionalMoCoV3ViT', pos_swap=0.3)
    cfg['backbone'] |= dict(patch_drop_rate=0.5)
    model = build(cfg)
    student, teacher = watch(model.backbone), watch(model.momentum_encoder.module[0])
    images = [batch(4)[0], batch(4)[0] + 1]
    losses = model.loss(images, [])
    assert {'loss_view', 'loss_swap', 'loss_apl'} <= set(losses)
    assert [tokens.shape[1] for tokens, _ in student] == [9, 9]
    assert not torch.equal(student[0][1], student[1][1])
    assert [tokens.shape[1] for tokens, _ in teacher] == [17, 17]


def test_weight_zero_trains_as_without_heads():
    results = []
    for pos_head in None, [apl_head(loss_weight=0), swap_head(loss_weight=0)]:
        model = build(classifier(pos_head, backbone=vit(pos_swap=0.3)))
        torch.manual_seed(3)
        total, log = model.parse_losses(model.loss(*batch()))
        total.backward()
        gradients = [p.grad for name, p in model.named_parameters() if 'pos_head' not in name]
        results.append([log.get('loss_cls', log['loss']), *gradients])
    assert all(map(torch.equal, *results))


def test_a_repeated_forward_pass_is_refused():
    model = build(vit())
    images = batch()[0].requires_grad_()
    output = checkpoint(lambda x: model(x)[0], images, use_reentrant=False)
    with pytest.raises(UserError, match="^patch_drop_rate .*checkpoint the backbone's layers"):
        output.sum().backward()


@pytest.mark.parametrize(
    'options, line',
    [
        (dict(rate=1), 'patch_drop_rate=1 is refused: set it to a number from 0 on, below 1'),
        (dict(rate=-0.1), 'patch_drop_rate=-0.1 is refused'),
        (dict(rate=None), 'patch_drop_rate=None is refused'),
        (dict(pos_encoding='rope'), "patch_drop_rate=0.5 leaves patches out, and pos_encoding='r"),
        (dict(out_type='featmap'), "patch_drop_rate=0.5 leaves patches out, and out_type='featm"),
        (
            dict(pos_drop=dict(patches=0.5, labelled='dropped')),
            "patch_drop_rate=0.5 leaves patches out, and with pos_drop.labelled='dropped'",
        ),
    ],
)
def test_what_needs_all_patches_is_refused(options, line):
    with pytest.raises(UserError, match=f'^{line}'):
        build(vit(**options))


def test_igpt_needs_all_patches():
    with pytest.raises(
        UserError, match='^model.backbone.patch_drop_rate=0.5 leaves out patches t'
    ):
        build(igpt(patch_drop_rate=0.5))
