"""iGPT: every patch is predicted from those before it."""

import pytest
import torch
from models import apl_head, build, classifier, tiny_vit
from selfsup_models import ALGORITHMS, ARCH, igpt
from torch import nn

from poslabel_mm.errors import UserError

pytestmark = pytest.mark.computes


def patch_gradients(output, images, grid_shape):
    """How strongly an output depends on each patch, (N,); 0 if it does not at all."""
    (gradient,) = torch.autograd.grad(output, images, retain_graph=True)
    (H, W), (height, width) = grid_shape, images.shape[-2:]
    patches = gradient.unflatten(-1, (W, width // W)).unflatten(-3, (H, height // H))
    return patches.abs().sum(dim=(0, 1, 3, 5)).flatten()


@pytest.mark.parametrize('pos_encoding', ['learned', 'none', 'rope'])
@pytest.mark.parametrize('img_size, grid', [(16, (4, 4)), ((8, 20), (2, 5))])
def test_a_token_depends_on_its_patch_and_those_before_it(pos_encoding, img_size, grid):
    cfg = igpt(pos_encoding=pos_encoding, img_size=img_size)
    model = build(cfg, training=False).double()
    height, width = 4 * grid[0], 4 * grid[1]
    images = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    (tokens,) = model.backbone(images)
    N = grid[0] * grid[1]
    assert tokens.shape == (2, 1 + N, 16)
    # A sum over the channels would be constant after the final norm.
    shown = tokens.square() @ torch.randn(16, dtype=torch.float64)
    for i in range(N):
        gradients = patch_gradients(shown[:, 1 + i].sum(), images, grid)
        assert (gradients[: i + 1] > 0).all()
        assert torch.equal(gradients[i + 1 :], torch.zeros(N - i - 1, dtype=torch.float64))
    # What predicts patch i has not seen it.
    predicted = []
    loss, model.head.loss = model.head.loss, lambda *inputs: predicted.append(inputs[0])
    model.loss(images, [])
    model.head.loss = loss
    for i in range(1, N):
        gradients = patch_gradients(predicted[0][:, i].sum(), images, grid)
        assert (gradients[:i] > 0).all() and not gradients[i:].any()
    assert torch.equal(predicted[0][0, 0], predicted[0][1, 0])  # of every image the same


def test_without_encoding_a_token_can_tell_how_many_came_before_it():
    """Where all patches look alike, and every token sees all, there is nothing to tell from."""
    images = torch.ones(1, 3, 16, 16)
    for causal, places in (True, 16), (False, 1):
        model = build(igpt(pos_encoding='none'), training=False).double()
        if not causal:
            for layer in model.backbone.layers:
                layer.attn.scaled_dot_product_attention = (
                    nn.functional.scaled_dot_product_attention
                )
        nn.init.normal_(model.backbone.cls_token)
        tokens = model.backbone(images.double())[0][0, 1:]
        assert len((tokens / 1e-9).round().unique(dim=0)) == places


@pytest.mark.parametrize('norm_pix', [True, False])
@pytest.mark.parametrize('img_size', [16, (8, 20)])
def test_loss_is_the_plain_one(norm_pix, img_size):
    cfg = igpt(img_size=img_size)
    cfg['head'] |= dict(norm_pix=norm_pix)
    model = build(cfg).double()
    height, width = img_size if isinstance(img_size, tuple) else (img_size, img_size)
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    loss = model.loss(images, [])['loss']
    (tokens,) = model.backbone(images)
    errors = []
    for b in range(2):
        for i in range(height * width // 16):
            row, col = divmod(i, width // 4)
            patch = images[b, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
            target = torch.stack([patch[:, y, x] for y in range(4) for x in range(4)]).flatten()
            if norm_pix:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            before = tokens[b, i]  # the class token is the first
            errors.append((model.neck.fc.weight @ before + model.neck.fc.bias - target).square())
    expected = torch.stack(errors).mean()
    wanted = list(model.parameters())
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for ours, plain in zip(*(torch.autograd.grad(each, wanted) for each in (loss, expected))):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_the_weights_are_the_stock_ones():
    model = build(igpt())
    stock = build(tiny_vit())
    assert model.backbone.state_dict().keys() == stock.state_dict().keys()
    images = torch.randn(2, 3, 16, 16)
    stock.load_state_dict(model.backbone.state_dict())
    stock.out_type = 'raw'
    assert not torch.equal(model.backbone(images)[0], stock(images)[0])
    for layer in model.backbone.layers:
        layer.attn.scaled_dot_product_attention = nn.functional.scaled_dot_product_attention
    assert torch.equal(model.backbone(images)[0], stock(images)[0])


def test_a_classifier_averages_the_patches():
    backbone = tiny_vit(type='poslabel_mm.CausalVisionTransformer', out_type='avg_featmap')
    images = torch.randn(2, 3, 16, 16)
    assert build(classifier(backbone=backbone), training=False)(images).shape == (2, 3)
    with pytest.raises(UserError, match="^out_type='cls_token' is refused: .*sees no patch"):
        build(backbone | dict(out_type='cls_token'))


def test_autocast_keeps_the_loss_in_float32():
    model = build(ALGORITHMS['iGPT'].cfg())
    images, samples = ALGORITHMS['iGPT'].batch()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = model.loss(images, samples)['loss']
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, model.loss(images, samples)['loss'], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    'options, line',
    [
        (dict(backbone=tiny_vit()), 'model.backbone.type=VisionTransformer shows every token all'),
        (igpt(with_cls_token=False), 'model.backbone.with_cls_token is False'),
        (igpt(out_type='featmap'), "model.backbone.out_type='featmap' leaves out the class token"),
        (dict(neck=None), 'model.neck=None is refused: set it to a dict'),
        (dict(head=None), 'model.head=None is refused: set it to a dict'),
        (
            dict(neck=dict(type='LinearNeck', in_channels=16, out_channels=48)),
            'model.neck.norm_cfg mixes patches',
        ),
        (
            dict(neck=dict(type='LinearNeck', in_channels=16, out_channels=9, norm_cfg=None)),
            'model.neck.out_channels=9 does not fit: a patch has 48 values',
        ),
        (
            dict(
                backbone=dict(
                    type='poslabel_mm.CausalVisionTransformer',
                    arch=ARCH,
                    img_size=16,
                    patch_size=8,
                )
            ),
            '.*--cfg-options .*model.head.patch_size=8',
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, line):
    for head in dict(), dict(type='poslabel_mm.PositionalLabelIGPT', pos_head=apl_head()):
        with pytest.raises(UserError, match=f'^{line}'):
            build(igpt() | options | head)
