"""Positional encodings of checkpoints with another patch grid."""

import copy
import itertools

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import CheckpointLoader, load_checkpoint, save_checkpoint
from mmengine.runner.checkpoint import get_state_dict, weights_to_cpu
from mmpretrain.registry import MODELS
from models import apl_head, build, classifier, tiny_vit
from selfsup_models import VIT, decoder, hivit, mae, mocov3

from poslabel_mm.errors import UserError

pytestmark = pytest.mark.computes

PATCH = 4
STOCK = {
    'ViT': tiny_vit(),
    'MAE-ViT': dict(type='MAEViT') | VIT,
    'HiViT': hivit('MAEHiViT'),
    'MoCo v3': dict(type='MoCoV3ViT') | VIT,
}
OURS = {
    'ViT': 'poslabel_mm.PositionalVisionTransformer',
    'MAE-ViT': 'poslabel_mm.PositionalMAEViT',
    'HiViT': 'poslabel_mm.PositionalMAEHiViT',
    'MoCo v3': 'poslabel_mm.PositionalMoCoV3ViT',
}
SWIN = dict(
    type='poslabel_mm.PositionalSwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]),
    img_size=32,
    patch_size=8,
    out_indices=(1,),
    use_abs_pos_embed=True,
)
every_family = pytest.mark.parametrize('family', OURS)


def of_grid(family, H, W, ours=True, **kwargs):
    """A backbone's config for images of H x W patches."""
    cfg = STOCK[family] | dict(img_size=(PATCH * H, PATCH * W)) | kwargs
    return cfg | dict(type=OURS[family]) if ours else cfg


def ramp(H, W):
    """H x W places that tell their row and column, in units of the image."""
    rows, columns = torch.meshgrid(
        (torch.arange(H) + 0.5) / H, (torch.arange(W) + 0.5) / W, indexing='ij'
    )
    return torch.stack([rows, columns], -1).flatten(0, 1)


def set_ramp(model, H, W):
    model.pos_embed.data.zero_()
    model.pos_embed.data[0, -H * W :, :2] = ramp(H, W)
    return model


def assert_is_ramp(encoding, H, W, source):
    """To a twentieth of the source's step between its outermost centres."""
    h, w = source
    found, wanted = encoding[0, -H * W :, :2], ramp(H, W)
    low = torch.tensor([0.5 / h, 0.5 / w])
    inside = (wanted > 2 * low) & (wanted < 1 - 2 * low)
    steps = torch.tensor([1 / h, 1 / w])
    assert ((found - wanted).abs() <= 0.1 * steps)[inside].all()
    # Beyond the outermost centres it is constant.
    assert ((found - wanted.clamp(low, 1 - low)).abs() <= 0.2 * steps).all()


def saved(model, path):
    """The file that MMEngine makes of a model."""
    save_checkpoint(dict(meta={}, state_dict=weights_to_cpu(get_state_dict(model))), str(path))
    return str(path)


@pytest.mark.parametrize(
    'source, target',
    [
        ((2, 8), (2, 16)),
        ((2, 8), (4, 4)),
        ((2, 8), (4, 8)),
        ((9, 4), (6, 6)),
        ((4, 8), (8, 16)),
        ((4, 4), (2, 8)),
        ((3, 5), (5, 3)),
        ((4, 4), (7, 7)),
        ((3, 5), (3, 5)),
    ],
)
@every_family
def test_a_ramp_stays_a_ramp_whatever_the_grids(family, source, target, tmp_path):
    path = saved(set_ramp(build(of_grid(family, *source)), *source), tmp_path / 'a.pth')
    model = build(of_grid(family, *target))
    load_checkpoint(model, path, strict=True)
    assert_is_ramp(model.pos_embed.data, *target, source)


def test_linear_interpolation_keeps_a_ramp_exactly():
    source = set_ramp(build(of_grid('ViT', 4, 8)), 4, 8)
    model = build(of_grid('ViT', 7, 11, interpolate_mode='bilinear'))
    model.load_state_dict(source.state_dict())
    low = torch.tensor([0.5 / 4, 0.5 / 8])
    torch.testing.assert_close(model.pos_embed.data[0, 1:, :2], ramp(7, 11).clamp(low, 1 - low))


def test_of_a_square_the_result_is_the_stock_models_to_the_bit():
    source = build(of_grid('ViT', 4, 4, ours=False), seed=3)
    for H, W in (7, 7), (3, 5):
        ours = build(of_grid('ViT', H, W))
        stock = build(of_grid('ViT', H, W, ours=False))
        for model in ours, stock:
            model.load_state_dict(source.state_dict())
        assert torch.equal(ours.pos_embed, stock.pos_embed)


@every_family
def test_the_grid_is_saved_beside_the_stock_keys(family, tmp_path):
    ours = build(of_grid(family, 3, 3))
    stock = build(of_grid(family, 3, 3, ours=False), seed=3)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    path = saved(ours, tmp_path / 'a.pth')
    load_checkpoint(stock, path, strict=True)
    assert torch.equal(stock.pos_embed, ours.pos_embed)


def test_init_cfg_finds_the_grid_under_a_prefix(tmp_path):
    """MMEngine cuts the prefix off, and with it all but the tensors."""
    cfg = classifier(backbone=of_grid('ViT', 2, 8))
    source = build(cfg)
    set_ramp(source.backbone, 2, 8)
    path = saved(source, tmp_path / 'a.pth')
    model = build(
        of_grid('ViT', 4, 4, init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'))
    )
    assert_is_ramp(model.pos_embed.data, 4, 4, (2, 8))


def test_a_stock_backbone_in_a_model_with_heads_keeps_its_grid(tmp_path):
    def make(H, W):
        return build(classifier(apl_head(grid_size=(H, W)), of_grid('ViT', H, W, ours=False)))

    source = make(2, 8)
    set_ramp(source.backbone, 2, 8)
    path = saved(source, tmp_path / 'a.pth')
    for model in make(4, 4), copy.deepcopy(make(4, 4)):
        load_checkpoint(model, path, strict=True)
        assert_is_ramp(model.backbone.pos_embed.data, 4, 4, (2, 8))


def test_an_average_of_a_model_keeps_its_grid():
    model = set_ramp(build(of_grid('ViT', 2, 8)), 2, 8)
    average = ExponentialMovingAverage(model)
    other = ExponentialMovingAverage(build(of_grid('ViT', 4, 4)))
    other.load_state_dict(average.state_dict())
    assert_is_ramp(other.module.pos_embed.data, 4, 4, (2, 8))


def test_the_momentum_encoder_keeps_its_grid_too():
    def make(H, W):
        cfg = mocov3() | dict(type='poslabel_mm.PositionalLabelMoCoV3', pos_head=None)
        cfg['backbone'] |= dict(img_size=(PATCH * H, PATCH * W))
        return build(cfg)

    source, model = make(2, 8), make(4, 4)
    set_ramp(source.momentum_encoder.module[0], 2, 8)
    model.load_state_dict(source.state_dict())
    assert_is_ramp(model.momentum_encoder.module[0].pos_embed.data, 4, 4, (2, 8))


def test_swins_absolute_encoding_is_resized_too():
    def make(H, W):
        return build(SWIN | dict(img_size=(8 * H, 8 * W)))

    source, model = make(2, 8), make(4, 4)
    source.absolute_pos_embed.data[0, :, :2] = ramp(2, 8)
    model.load_state_dict(source.state_dict())
    assert_is_ramp(model.absolute_pos_embed.data, 4, 4, (2, 8))


def test_maes_decoder_follows_as_well(tmp_path):
    def make(H, W):
        return build(
            mae(of_grid('MAE-ViT', H, W), neck=decoder(num_patches=H * W))
            | dict(type='poslabel_mm.PositionalLabelMAE', pos_head=None)
        )

    source, model = make(2, 8), make(4, 4)
    source.neck.decoder_pos_embed.data[0, 1:, :2] = ramp(2, 8)
    load_checkpoint(model, saved(source, tmp_path / 'a.pth'), strict=True)
    assert_is_ramp(model.neck.decoder_pos_embed.data, 4, 4, (2, 8))


# Where the file does not tell


@pytest.mark.parametrize(
    'source, target, message',
    [
        (
            (3, 5),
            (3, 5),
            'does not tell the grid of its 15 patches, and 15 is not a square number: ',
        ),
        (
            (3, 5),
            (4, 4),
            'does not tell the grid of its 15 patches, and 15 is not a square number: ',
        ),
        ((4, 4), (2, 8), "whether its 16 patches are 4x4 or the model's 2x8"),
    ],
)
@every_family
def test_a_grid_that_can_be_another_is_refused(family, source, target, message):
    state_dict = build(
        of_grid(family, *source, ours=False)
        if source[0] == source[1] or family == 'ViT'
        else of_grid(family, *source)
    ).state_dict()
    state_dict = dict(state_dict)  # without metadata, as a stock file
    with pytest.raises(UserError, match=message) as refused:
        build(of_grid(family, *target)).load_state_dict(state_dict)
    assert 'model.backbone.checkpoint_grid=' in str(refused.value)
    assert '\n' not in str(refused.value)


def test_the_user_tells_the_grid():
    source = set_ramp(build(of_grid('ViT', 2, 8, ours=False)), 2, 8)
    for H, W in (2, 8), (4, 4), (3, 5):
        model = build(of_grid('ViT', H, W, checkpoint_grid=[2, 8]))
        model.load_state_dict(source.state_dict())
        assert_is_ramp(model.pos_embed.data, H, W, (2, 8))
    # A file that tells its grid needs no telling.
    model.load_state_dict(build(of_grid('ViT', 4, 4)).state_dict())


def test_a_wrong_grid_is_refused():
    state_dict = dict(build(of_grid('ViT', 2, 8)).state_dict())
    model = build(of_grid('ViT', 4, 4, checkpoint_grid=(3, 5)))
    with pytest.raises(UserError, match='has 16 patches, which are not 3x5'):
        model.load_state_dict(state_dict)
    with pytest.raises(UserError, match=r'checkpoint_grid=14 .*\(rows, col'):
        build(of_grid('ViT', 4, 4, checkpoint_grid=14))


def test_a_stock_backbone_is_told_through_ours():
    model = build(classifier(apl_head(), of_grid('ViT', 4, 4, ours=False)))
    state_dict = model.state_dict()
    state_dict['backbone.pos_embed'] = torch.zeros(1, 16, 16)
    state_dict = dict(state_dict)
    with pytest.raises(
        UserError,
        match='checkpoint_grid=.* model.backbone.type=poslabel_mm.PositionalVisionTransformer',
    ):
        model.load_state_dict(state_dict)


def test_class_tokens_are_none_of_the_patches():
    """A file with a class token into a model without one, told and not."""
    without = dict(with_cls_token=False, out_type='avg_featmap')
    source = set_ramp(build(of_grid('ViT', 4, 4)), 4, 4)
    for state_dict, (H, W) in itertools.product(
        (source.state_dict(), dict(source.state_dict())), [(4, 4), (3, 5)]
    ):
        model = build(of_grid('ViT', H, W, **without))
        model.load_state_dict(state_dict, strict=False)
        assert_is_ramp(model.pos_embed.data, H, W, (4, 4))
    source = build(of_grid('ViT', 2, 8, **without)).state_dict()
    with pytest.raises(UserError, match='0 class tokens beside its 2x8'):
        build(of_grid('ViT', 2, 8)).load_state_dict(source, strict=False)


def test_the_file_is_read_alike_with_and_without_mmengine(tmp_path):
    model = set_ramp(build(of_grid('ViT', 2, 8)), 2, 8)
    path = saved(model, tmp_path / 'a.pth')
    plain = torch.load(path, weights_only=True)['state_dict']
    read = CheckpointLoader.load_checkpoint(path, 'cpu')['state_dict']
    for state_dict in plain, read, dict(read):
        other = build(of_grid('ViT', 4, 4))
        other.load_state_dict(state_dict)
        assert_is_ramp(other.pos_embed.data, 4, 4, (2, 8))


# Input of another size


@pytest.mark.parametrize('built, shown', [((3, 5), (6, 10)), ((2, 8), (4, 4)), ((3, 5), (5, 3))])
@pytest.mark.parametrize('family', ['ViT', 'HiViT'])
def test_the_encoding_of_a_larger_image(family, built, shown):
    model = set_ramp(build(of_grid(family, *built), training=False), *built)
    seen = []
    if family == 'ViT':
        model.drop_after_pos.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    else:
        model.pos_drop.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for parameter in model.patch_embed.parameters():
        parameter.data.zero_()
    H, W = shown
    images = torch.zeros(1, 3, PATCH * H, PATCH * W)
    unmasked = (images, None) if family == 'HiViT' else (images,)
    with torch.no_grad():
        model(*unmasked)
        model.pos_embed.zero_()
        model(*unmasked)
    assert_is_ramp(seen[0] - seen[1], H, W, built)


# What the file holds is used


@pytest.mark.parametrize('family', ['MAE-ViT', 'HiViT', 'MoCo v3'])
def test_a_fixed_encoding_is_the_files_as_in_the_stock_encoder(family):
    """MAE's own files have rows and columns in exchanged channels."""
    source = build(of_grid(family, 4, 4, ours=False), seed=3)
    C = source.pos_embed.shape[2]
    source.pos_embed.data = source.pos_embed.data.roll(C // 2, 2)
    ours = build(of_grid(family, 4, 4))
    stock = build(of_grid(family, 4, 4, ours=False))
    assert not torch.allclose(ours.pos_embed, source.pos_embed)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    outs = []
    for model in ours, stock:
        model.load_state_dict(source.state_dict())
        torch.manual_seed(4)
        outs.append(model(images)[0])
    assert torch.equal(*outs)
    assert not ours.pos_embed.requires_grad


# train() and eval()


@pytest.mark.parametrize('family', [*OURS, 'Swin'])
def test_train_and_eval_return_the_backbone(family):
    model = MODELS.build(SWIN if family == 'Swin' else of_grid(family, 4, 4))
    assert model.eval() is model and not model.training
    assert model.train() is model and model.training


def test_no_type_of_ours_returns_nothing_from_train():
    from poslabel_mm.registry import MODELS as OWN

    for cls in OWN.module_dict.values():
        if not issubclass(cls, torch.nn.Module):
            continue
        owner = next(c for c in cls.__mro__ if 'train' in vars(c))
        assert owner is torch.nn.Module or owner.__module__.startswith('poslabel_mm'), cls
