import copy
import pickle

import pytest
import torch
from backbones import OTHERS, TRANSFORMERS
from models import apl_head, batch, build, classifier, tiny_vit
from selfsup_models import mae_hivit

from poslabel_mm.errors import UserError
from poslabel_mm.tokens import PatchTokenReader

pytestmark = pytest.mark.computes

OUT_TYPES = ['cls_token', 'avg_featmap', 'featmap', 'raw']


def backbone(**kwargs):
    return build(tiny_vit(**kwargs), training=False)


def reference_tokens(out_type, images):
    """The patch tokens after the final norm, from the stock raw output."""
    model = backbone(out_type=out_type)
    model.out_type = 'raw'
    return model(images)[-1][:, 1:]


@pytest.mark.parametrize('out_type', OUT_TYPES)
@pytest.mark.parametrize('size', [(16, 16), (12, 20)])
def test_reads_the_final_tokens_whatever_the_out_type(out_type, size):
    images, _ = batch(3, *size)
    expected = reference_tokens(out_type, images)
    stock = backbone(out_type=out_type)(images)

    model = backbone(out_type=out_type)
    reader = PatchTokenReader(model)
    with reader:
        outputs = model(images)
    tokens, grid_shape, indices = reader.take()
    assert torch.equal(tokens, expected)
    assert grid_shape == (size[0] // 4, size[1] // 4) and indices is None
    assert len(outputs) == len(stock)
    assert all(map(torch.equal, outputs, stock))


def test_several_stages_the_last_one_counts():
    images, _ = batch()
    model = backbone(out_type='featmap', out_indices=[0, 1])
    reader = PatchTokenReader(model)
    with reader:
        outputs = model(images)
    assert torch.equal(reader.take().tokens, outputs[-1].flatten(2).transpose(1, 2))


def test_distilled_vit_leaves_out_both_extra_tokens():
    images, _ = batch()
    model = backbone(type='DistilledVisionTransformer')
    reader = PatchTokenReader(model)
    with reader:
        cls_token, dist_token = model(images)[-1]
    tokens = reader.take().tokens
    assert tokens.shape == (2, 16, 16)
    for extra in (cls_token, dist_token):
        assert not (tokens == extra[:, None]).all(-1).any()


def test_reads_a_feature_map():
    model = torch.nn.Conv2d(3, 5, 4, 4)
    reader = PatchTokenReader(model)
    with reader:
        out = model(torch.randn(2, 3, 8, 12))
    tokens, grid_shape, _ = reader.take()
    assert grid_shape == (2, 3)
    assert torch.equal(tokens[:, 4], out[:, :, 1, 1])


def test_a_backbone_without_a_grid_says_so():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    reader = PatchTokenReader(model)
    with reader:
        model(torch.randn(2, 12))
    with pytest.raises(UserError, match='Sequential shows no patch grid.*choose another backbone'):
        reader.take()


def test_a_backbone_whose_output_step_gets_no_grid():
    """As ViTSAM's, which is handed a feature map."""

    class Backbone(torch.nn.Module):
        def _format_output(self, x):
            return x.mean((2, 3))

        def forward(self, x):
            return (self._format_output(x),)

    model = Backbone()
    reader = PatchTokenReader(model)
    images = torch.randn(2, 5, 2, 3)
    assert torch.equal(model(images)[0], images.mean((2, 3)))
    with reader:
        model(images)
    assert reader.take().grid_shape == (2, 3)


def test_no_feature_map_is_kept_outside_reading():
    model = torch.nn.Conv2d(3, 5, 4, 4)
    reader = PatchTokenReader(model)
    model(torch.randn(2, 3, 8, 12))
    with pytest.raises(UserError):
        reader.take()


def test_nothing_is_kept_outside_reading():
    images, _ = batch()
    model = backbone()
    reader = PatchTokenReader(model)
    model(images)
    with pytest.raises(UserError):
        reader.take()
    with reader:
        model(images)
    reader.take()
    with pytest.raises(UserError):
        reader.take()


@pytest.mark.parametrize(
    'clone',
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=['deepcopy', 'pickle'],
)
def test_a_copied_model_reads_its_own_backbone(clone):
    """As EMA does: the copy must not read, or feed, the original."""
    images, samples = batch()
    model = build(classifier(apl_head()))
    twin = clone(model)
    with torch.no_grad():
        for parameter in twin.backbone.parameters():
            parameter.zero_()
    before = model.loss(images, samples)['loss_apl']
    zeroed = twin.loss(images, samples)['loss_apl']
    assert torch.equal(model.loss(images, samples)['loss_apl'], before)
    assert not torch.equal(zeroed, before)


@pytest.mark.parametrize(
    'cfg, channels, grid',
    [
        (dict(model_name='vit_tiny_patch16_224', depth=1), 192, (4, 4)),
        (
            dict(model_name='swin_tiny_patch4_window7_224', window_size=2, depths=(1, 1, 1, 1)),
            768,
            (2, 2),
        ),
    ],
    ids=['tokens', 'channels last'],
)
def test_timms_tokens_and_its_maps_with_channels_last(cfg, channels, grid):
    pytest.importorskip('timm')
    model = build(dict(type='TIMMBackbone', img_size=64, **cfg), training=False)
    reader = PatchTokenReader(model)
    with reader:
        out = model(batch(2, 64, 64)[0])[-1]
    tokens, grid_shape, _ = reader.take()
    assert grid_shape == grid
    assert tokens.shape == (2, grid[0] * grid[1], channels)
    # A ViT's class token comes first; a Swin's last token is its last place.
    assert torch.equal(tokens[:, -1], out.flatten(1, -2)[:, -1])


def test_timms_grid_follows_images_of_other_sizes():
    """24 patches either way, and a class and four register tokens."""
    pytest.importorskip('timm')
    model = build(
        dict(
            type='TIMMBackbone',
            model_name='vit_tiny_patch16_224',
            depth=1,
            reg_tokens=4,
            img_size=(64, 96),
            dynamic_img_size=True,
        ),
        training=False,
    )
    reader = PatchTokenReader(model)
    for size in [(64, 96), (96, 64), (32, 48)]:
        with reader:
            out = model(batch(1, *size)[0])[-1]
        tokens, grid_shape, _ = reader.take()
        assert grid_shape == (size[0] // 16, size[1] // 16)
        assert torch.equal(tokens, out[:, 5:])


def test_timms_tokens_that_are_not_all_accounted_for_are_refused():
    """Patch dropout leaves some out; a class token too many stands for all
    that a model may put before its patches unannounced."""
    pytest.importorskip('timm')
    cfg = dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224', depth=1, img_size=64)
    images, _ = batch(1, 64, 64)
    dropping = build(cfg | dict(patch_drop_rate=0.5))
    with pytest.raises(UserError, match='gave 9 tokens for a 4x4 patch grid'):
        with PatchTokenReader(dropping):
            dropping(images)
    model = build(cfg)
    model.timm_model.num_prefix_tokens = 0
    reader = PatchTokenReader(model)
    model.timm_model.num_prefix_tokens = 1
    with pytest.raises(UserError, match='gave 17 tokens for a 4x4 patch grid'):
        with reader:
            model(images)


@pytest.mark.parametrize(
    'name, last',
    [
        ('ConvNeXt', 2),
        ('EdgeNeXt', 1),
        ('HorNet', 2),
        ('TinyViT', 1),
        ('TinyViT', 0),
        ('EfficientFormer', 2),
        ('MlpMixer', -2),
        ('Conformer', 2),
    ],
)
def test_the_last_tokens_are_those_of_the_last_output(name, last):
    """What the backbone returns is their mean, up to its norm."""
    case = (TRANSFORMERS | OTHERS)[name]
    cfg = dict(case['model']['backbone'], out_indices=[last])
    model = build(cfg, training=False)
    reader = PatchTokenReader(model)
    images, _ = batch(2, case['size'], case['size'])
    with torch.no_grad(), reader:
        out = model(images)[-1]
    tokens, (H, W), _ = reader.take()
    assert tokens.shape[1] == H * W
    if name == 'Conformer':
        assert len(out[1]) == len(tokens)
        return
    if out.dim() == 4:
        assert torch.equal(tokens, out.flatten(2).transpose(1, 2))
    elif out.dim() == 3:
        assert torch.equal(tokens, out.transpose(1, 2))
    else:
        # Normalised one by one, they are those that were averaged.
        assert reader.source.tokens == f'stages.{last}'
        seen = {}
        model.get_submodule(f'stages.{last}').register_forward_hook(
            lambda _, __, out: seen.update(out=out)
        )
        with torch.no_grad():
            model(images)
        raw = seen['out']
        raw = raw.flatten(2).transpose(1, 2) if raw.dim() == 4 else raw
        norm = getattr(model, f'norm{last}')
        mean = raw.mean(1)
        got = (
            norm(mean[..., None, None]).flatten(1)
            if (name in ('ConvNeXt', 'HorNet'))
            else norm(mean)
        )
        torch.testing.assert_close(got, out, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tokens, torch.nn.functional.layer_norm(raw, raw.shape[-1:]))


# ---------------------------------------------------------- wrapped and shared backbones


def lora(backbone):
    return dict(type='LoRAModel', module=backbone, rank=2, targets=[dict(type='qkv')])


def test_a_wrapped_backbone_shows_what_it_wraps():
    images, samples = batch()
    model = build(classifier(apl_head(), lora(tiny_vit())))
    # Before it has learned anything, LoRA changes nothing.
    losses = model.loss(images, samples)
    reader = PatchTokenReader(model.backbone.module)
    with reader:
        model.backbone(images)
    expected = model.pos_head.loss(reader.take())
    assert torch.equal(losses['loss_apl'], expected['loss_apl'])
    losses['loss_apl'].backward()
    trained = {name for name, p in model.backbone.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.backbone.named_parameters() if '.lora_' in name}


@pytest.mark.slow
def test_a_compiled_backbone_is_read_inside():
    model = backbone()
    assert PatchTokenReader(torch.compile(model, backend='eager')).backbone is model


def test_a_wrapped_encoder_without_a_final_norm_is_normalised():
    encoder = dict(mae_hivit()['backbone'], type='MAEHiViT')
    plain, wrapped = (
        build(
            mae_hivit() | dict(backbone=cfg, type='poslabel_mm.PositionalLabelMAE', pos_head=None)
        )
        for cfg in (encoder, lora(encoder))
    )
    assert plain.normalise is wrapped.normalise is True


@pytest.mark.parametrize('clone', [lambda model: model, copy.deepcopy])
def test_two_models_read_one_backbone(clone):
    images, samples = batch()
    first = build(classifier(apl_head()))
    expected = first.loss(images, samples)['loss_apl']
    second = build(classifier(apl_head(), first.backbone))
    second.pos_head.load_state_dict(first.pos_head.state_dict())
    for model in clone(first), clone(second), first:
        assert torch.equal(model.loss(images, samples)['loss_apl'], expected)
    outer, inner = PatchTokenReader(first.backbone), PatchTokenReader(first.backbone)
    with outer, inner:
        first.backbone(images)
    assert torch.equal(outer.take().tokens, inner.take().tokens)
