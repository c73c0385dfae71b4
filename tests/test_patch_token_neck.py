"""Tokens of any stage of a backbone that stays the stock one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from backbones import OTHERS, TRANSFORMERS, WITHOUT_GRID
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from models import apl_head, batch, build, classifier, tiny_vit

from poslabel_mm.errors import UserError
from poslabel_mm.models import PatchTokenNeck
from poslabel_mm.tokens import PatchTokenReader, PatchTokens
from poslabel_mm.tokens.families import token_source
from poslabel_mm.tokens.sources import TokenSource

pytestmark = pytest.mark.computes

CASES = TRANSFORMERS | OTHERS
# Between their last stage and their last tokens is more than a norm over the
# channels: convolutions, class attention, a norm over the map.
MORE_THAN_A_NORM = {'MobileViT', 'ViTSAM', 'XCiT', 'PoolFormer', 'RIFormer'}
# Pixels a token, stage by stage. The rest are plain: every layer is at 16.
PYRAMID = [4, 8, 16, 32]
STRIDES = dict.fromkeys(
    [
        'SwinTransformer',
        'SwinTransformerV2',
        'DaViT',
        'PCPVT',
        'SVT',
        'MViT',
        'MixMIMTransformer',
        'TinyViT',
        'EdgeNeXt',
        'PoolFormer',
        'RIFormer',
        'VAN',
        'ResNet',
        'ConvNeXt',
        'HorNet',
    ],
    PYRAMID,
) | dict(LeViT=[16, 32, 64], MobileViT=[2, 4, 8, 16, 32])
# Widths of the stages of those that end a stage with a merging.
WIDTHS = dict.fromkeys(
    ['SwinTransformer', 'DaViT', 'MixMIMTransformer', 'TinyViT'], [8, 16, 32, 64]
)
CHANNELS = 32  # of the third stage of the tiny Swin


def case(name):
    return copy.deepcopy(CASES[name])


def swin(pos_neck=None, **kwargs):
    """The tiny stock Swin's classifier, or a labelled one with a neck."""
    cfg = dict(type='ImageClassifier', **case('SwinTransformer')['model'])
    cfg['backbone'].update(drop_path_rate=0.2)
    if pos_neck is not None:
        cfg.update(
            type='poslabel_mm.PositionalLabelClassifier',
            pos_neck=pos_neck,
            pos_head=apl_head(in_channels=CHANNELS, grid_size=4) | kwargs,
        )
    return cfg


def third_stage(**kwargs):
    return dict(type='poslabel_mm.PatchTokenNeck', stage=2) | kwargs


READABLE = [
    name
    for name in CASES
    if name not in ('HiViT', 'TNT', 'Conformer', 'EfficientFormer', 'RevVisionTransformer')
]


@pytest.mark.parametrize('name', READABLE)
def test_every_stage_of_every_family(name):
    """Each at the stride and width that it works at; the last ends in the output."""
    cfg, side = case(name)['model']['backbone'], case(name)['size']
    images, _ = batch(1, side, side)
    model = build(cfg, training=False)
    last = PatchTokenReader(model)
    readers, stage = [], 0
    while True:
        try:
            readers.append(PatchTokenReader(model, stage))
        except UserError as error:
            assert f'stage={stage} is refused' in str(error)
            break
        stage += 1
    with torch.no_grad(), last:
        for reader in readers:
            reader.__enter__()
        model(images)
    seen = [reader.take() for reader in readers]
    assert [grid_shape for _, grid_shape, _ in seen] == [
        (side // stride, side // stride) for stride in STRIDES.get(name, [16] * len(seen))
    ]
    if name in WIDTHS:
        assert [tokens.shape[-1] for tokens, *_ in seen] == WIDTHS[name]
    for tokens, (H, W), _ in seen:
        assert tokens.shape[:2] == (1, H * W)
    expected = last.take()
    assert seen[-1].grid_shape == expected.grid_shape
    if name not in MORE_THAN_A_NORM:
        norm = [
            F.layer_norm(tokens, tokens.shape[-1:])
            for tokens in (seen[-1].tokens, expected.tokens)
        ]
        torch.testing.assert_close(*norm, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('name', ['SwinTransformer', 'DaViT'])
def test_a_stage_is_not_what_the_merging_after_it_makes(name):
    """Even where the backbone returns that."""
    cfg = case(name)['model']['backbone'] | dict(out_after_downsample=True)
    if name == 'DaViT':
        cfg['out_indices'] = (3,)
    model = build(cfg, training=False)
    reader = PatchTokenReader(model, stage=1)
    with torch.no_grad(), reader:
        model(batch(1, 64, 64)[0])
    tokens, grid_shape, _ = reader.take()
    assert grid_shape == (8, 8) and tokens.shape == (1, 64, 16)


CHECKPOINTED = dict(
    SwinTransformer='with_cp',
    SwinTransformerV2='with_cp',
    DaViT='with_cp',
    ConvNeXt='with_cp',
    MixMIMTransformer='use_checkpoint',
    TinyViT='use_checkpoint',
    ResNet='with_cp',
)


@pytest.mark.parametrize('stage', [0, 2, None])
@pytest.mark.parametrize('name', CHECKPOINTED)
def test_activation_checkpointing_changes_no_gradient(name, stage):
    images, _ = batch(2, 64, 64)
    results = []
    for on in (False, True):
        cfg = case(name)['model']['backbone'] | {CHECKPOINTED[name]: on}
        model = build(
            cfg | (dict(drop_path_rate=0.0) if name not in ('ResNet', 'MixMIMTransformer') else {})
        )
        reader = PatchTokenReader(model, stage)
        image = images.clone().requires_grad_()
        with reader:
            model(image)
        tokens = reader.take().tokens
        (tokens * torch.linspace(-1, 1, tokens.shape[-1])).square().sum().backward()
        results.append([tokens.detach(), image.grad] + [p.grad for p in model.parameters()])
    for a, b in zip(*results):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_hornets_checkpointed_stages_are_out_of_sight():
    cfg = case('HorNet')['model']['backbone'] | dict(with_cp=True)
    with pytest.raises(UserError, match='with_cp=False'):
        PatchTokenReader(build(cfg))
    reader = PatchTokenReader(build(cfg | dict(gap_before_final_norm=False)))
    with reader:
        reader.backbone(batch(2, 64, 64)[0])
    assert reader.take().grid_shape == (2, 2)


@pytest.mark.parametrize('name', ['PCPVT', 'SVT'])
@pytest.mark.parametrize('norms', [[False] * 3 + [True], [True] * 4])
def test_published_twins_have_norms_after_their_stages(name, norms):
    """The tokens of a stage are those past its norm, where it has one."""
    cfg = case(name)['model']['backbone'] | dict(norm_after_stage=norms, out_indices=(0, 1, 2, 3))
    model = build(cfg, training=False)
    readers = [PatchTokenReader(model, stage) for stage in (0, 1, 2, 3, None)]
    with torch.no_grad():
        for reader in readers:
            reader.__enter__()
        outs = model(batch(1, 64, 96)[0])
    for reader, out in zip(readers, [*outs, outs[-1]]):
        tokens, grid_shape, _ = reader.take()
        assert grid_shape == out.shape[2:]
        assert torch.equal(tokens, out.flatten(2).transpose(1, 2))


@pytest.mark.parametrize('name', sorted(set(CASES) - set(READABLE)))
def test_a_backbone_without_readable_stages_says_so(name):
    model = build(case(name)['model']['backbone'])
    with pytest.raises(UserError, match='cannot be read; leave out pos_neck'):
        PatchTokenReader(model, stage=0)


def test_swins_third_stage_is_the_one_its_own_outputs_show():
    cfg = case('SwinTransformer')['model']['backbone']
    several = build(cfg | dict(out_indices=(2, 3)), training=False)
    images, _ = batch(2, 64, 64)
    expected = several(images)[0].flatten(2).transpose(1, 2)  # past norm2
    model = build(swin(third_stage()), training=False)
    model.backbone.load_state_dict(several.state_dict(), strict=False)
    tokens, grid_shape, indices = model.patch_tokens(images)
    assert grid_shape == (4, 4) and indices is None
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


def test_a_stock_swin_at_224_px_learns_196_positions():
    cfg = swin(third_stage(), grid_size=14)
    cfg['backbone'].update(img_size=224, window_size=7)
    model = build(cfg)
    assert 'loss_apl' in model.loss(*batch(1, 224, 224))
    assert model.pos_head.classifier.out_features == 196


def test_a_plain_transformers_stage_is_its_layer():
    images, _ = batch()
    model = build(tiny_vit(out_type='raw', out_indices=[0, 1]), training=False)
    reader = PatchTokenReader(model, stage=0)
    with reader:
        outputs = model(images)
    assert torch.equal(reader.take().tokens, outputs[0][:, 1:])


def test_tokens_are_normalised_without_parameters():
    neck = PatchTokenNeck(stage=1)
    tokens = torch.randn(2, 6, 16) * 7 + 3
    out = neck(PatchTokens(tokens, (2, 3)))
    assert out.grid_shape == (2, 3) and not neck.state_dict()
    torch.testing.assert_close(out.tokens.mean(-1), torch.zeros(2, 6))
    torch.testing.assert_close(out.tokens.var(-1, unbiased=False), torch.ones(2, 6))


def test_output_keys_and_weight_zero_are_the_stock_ones():
    images, samples = batch(2, 64, 64)
    a, b = build(swin()), build(swin(third_stage(), loss_weight=0.0))
    extra = set(b.state_dict()) - set(a.state_dict())
    assert extra and all(name.startswith('pos_head.') for name in extra)
    results = []
    for model in (a, b):
        torch.manual_seed(3)  # for the drop path
        losses = model.loss(images, samples)
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        results.append(
            [losses.get('loss_cls', losses.get('loss'))]
            + [p.grad for p in model.backbone.parameters()]
        )
    assert all(map(torch.equal, *results))
    assert torch.equal(a.eval()(images), b.eval()(images))


def test_the_labels_train_up_to_that_stage():
    model = build(swin(third_stage()))
    model.loss(*batch(2, 64, 64))['loss_apl'].backward()
    backbone = model.backbone
    for stage in backbone.stages[:3]:
        assert all(p.grad is not None for p in stage.blocks.parameters())
    assert all(p.grad is None for p in backbone.stages[3].parameters())


def test_a_copy_reads_its_own_backbone():
    images, _ = batch(2, 64, 64)
    model = build(swin(third_stage()), training=False)
    twin = copy.deepcopy(model)
    for parameter in twin.backbone.parameters():
        parameter.data.zero_()
    before = model.patch_tokens(images).tokens
    assert not torch.equal(twin.patch_tokens(images).tokens, before)
    assert torch.equal(model.patch_tokens(images).tokens, before)


def test_without_a_stage_it_normalises_the_last_tokens():
    images, _ = batch(2, 64, 64)
    model = build(swin(third_stage(stage=None), in_channels=64, grid_size=2), training=False)
    assert model.patch_tokens(images).tokens.shape == (2, 4, 64)


@pytest.mark.parametrize(
    'stage, reason',
    [
        (4, 'is refused: SwinTransformer has no such stage; choose from 0 to 3'),
        (-1, 'is refused: set it to a whole number from 0 on'),
        (1.5, 'is refused: set it to a whole number from 0 on'),
        ('third', 'is refused: set it to a whole number from 0 on'),
    ],
)
def test_a_stage_that_is_not_there_is_refused_when_the_model_is_built(stage, reason):
    with pytest.raises(UserError, match=rf'^model\.pos_neck\.stage={stage!r} {reason}'):
        build(swin(third_stage(stage=stage)))


@pytest.mark.parametrize('name', WITHOUT_GRID)
def test_a_backbone_without_a_grid_is_refused_when_the_model_is_built(name):
    # Their layers for scores are large, and are not needed for this.
    with (
        torch.device('meta'),
        pytest.raises(UserError, match=f'{name} exposes no patch grid.*class scores'),
    ):
        build(
            dict(
                type='poslabel_mm.PositionalLabelClassifier',
                backbone=WITHOUT_GRID[name],
                head=None,
                pos_head=apl_head(),
            )
        )


def test_the_same_backbone_without_scores_shows_its_feature_map():
    model = build(dict(type='LeNet5'))
    assert token_source(model) == TokenSource()


# ------------------------------------------------- MMEngine's activation_checkpointing


@pytest.mark.parametrize(
    'modules, stage, refused',
    [
        (['stages.1'], 1, True),
        (['stages.1.blocks.0'], 1, False),
        (['stages.1'], 2, False),
        (['stages.1'], 0, False),
    ],
)
def test_tokens_inside_of_a_reentrant_checkpoint_are_refused(modules, stage, refused):
    """It runs without gradient: they would train nothing. Its advice works."""
    model = build(case('TinyViT')['model']['backbone'])
    turn_on_activation_checkpointing(model, modules)
    reader = PatchTokenReader(model, stage)
    images = batch(2, 64, 64)[0]
    if refused:
        with pytest.raises(UserError, match='TinyViT .* re-entrant activation checkpoint.*blocks'):
            with reader:
                model(images)
        model.requires_grad_(False)  # a probe of frozen tokens
    with reader:
        model(images)
    tokens = reader.take().tokens
    assert tokens.requires_grad is not refused
    if not refused:
        tokens.square().sum().backward()
        assert next(model.parameters()).grad.any()


def test_a_whole_vit_in_a_reentrant_checkpoint_is_refused():
    images, samples = batch()
    model = build(classifier(apl_head()))
    turn_on_activation_checkpointing(model, ['backbone'])
    with pytest.raises(UserError, match='VisionTransformer .* re-entrant'):
        model.loss(images, samples)
    with torch.no_grad():  # of a validation
        model.loss(images, samples)


@pytest.mark.parametrize('stage', [0, 2])
def test_a_stage_of_a_wrapped_backbone(stage):
    cfg = case('SwinTransformer')['model']['backbone']
    model = build(
        dict(type='LoRAModel', module=cfg, rank=2, targets=[dict(type='qkv')]), training=False
    )
    reader = PatchTokenReader(model, stage)
    images = batch(2, 64, 64)[0]
    with reader:
        model(images)
    tokens = reader.take()
    plain = PatchTokenReader(model.module, stage)
    with plain:
        model.module(images)
    assert tokens.grid_shape == (16 // 2**stage, 16 // 2**stage)
    assert torch.equal(tokens.tokens, plain.take().tokens)
    tokens.tokens.sum().backward()
    blocks = model.module.stages[stage].blocks
    assert blocks[0].attn.w_msa.qkv.lora_up.weight.grad is not None
