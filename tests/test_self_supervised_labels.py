"""What holds for every self-supervised algorithm with position heads."""

import functools

import pytest
import torch
from mmengine.logging import MessageHub
from mmpretrain.models.selfsup import SimCLR
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from selfsup_models import ALGORITHMS, HEADS, LABELS, VIT, Algorithm, mocov3
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models.selfsup.view_labels import ViewLabels

pytestmark = pytest.mark.computes


@pytest.fixture(autouse=True)
def length_of_training():
    """Which MoCo v3 reads from the Runner's messages."""
    MessageHub.get_current_instance().update_info('max_iters', 10)


every_algorithm = pytest.mark.parametrize('name', ALGORITHMS)
every_head = pytest.mark.parametrize('kind', HEADS)


class Recorder(nn.Module):
    """In place of a position head: keeps what heads are given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def loss(self, patch_tokens):
        self.seen.append(patch_tokens)
        return dict()


def record(model, batch):
    model.pos_head = Recorder()
    model.loss(*batch)
    return model.pos_head.seen


def trained(name, pos_head=None):
    """The stock losses and the gradients of two steps, heads left out."""
    algorithm = ALGORITHMS[name]
    model = algorithm.build(pos_head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(3)
    losses, gradients = [], []
    for _ in range(2):
        optimizer.zero_grad()
        total, log = model.parse_losses(model.loss(*algorithm.batch()))
        total.backward()
        losses.append(log.get(algorithm.loss, log['loss']).detach())
        gradients.append(
            {
                name: parameter.grad
                for name, parameter in model.named_parameters()
                if not name.startswith('pos_head')
            }
        )
        optimizer.step()
    return losses, gradients


trained_stock = functools.cache(trained)  # for every head


@every_head
@every_algorithm
def test_weight_zero_trains_as_the_stock_algorithm(name, kind):
    """Same seed: same weights, losses and gradients, bit for bit."""
    stock_losses, stock_grads = trained_stock(name)
    our_losses, our_grads = trained(name, ALGORITHMS[name].head(kind, loss_weight=0.0))
    assert all(map(torch.equal, our_losses, stock_losses))
    for ours, stock in zip(our_grads, stock_grads):
        assert ours.keys() == stock.keys()
        for key, gradient in stock.items():
            if gradient is None:  # of what the algorithm does not use
                assert ours[key] is None or not ours[key].any(), key
            else:
                assert torch.equal(ours[key], gradient), key


@every_head
@every_algorithm
def test_labels_train_the_encoder_beside_the_stock_loss(name, kind):
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head(kind))
    losses = model.loss(*algorithm.batch())
    label = LABELS[kind]
    assert {algorithm.loss, f'loss_{label}', f'{label}_acc'} <= set(losses)
    assert 'loss' not in losses
    _, log = model.parse_losses(losses)
    assert log['loss'] >= log[algorithm.loss] + log[f'loss_{label}'] - 1e-6
    losses[f'loss_{label}'].backward()
    trained = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    ]
    assert any(name.startswith('pos_head.') for name in trained)
    encoder = [name for name in trained if name.startswith('backbone.')]
    assert len(encoder) > 10
    # iBOT's mask token is among the encoder's inputs.
    assert all(name.startswith(('pos_head.', 'backbone.', 'mask_token')) for name in trained)


def test_several_heads_sit_side_by_side():
    algorithm = ALGORITHMS['MAE']
    model = algorithm.build([algorithm.head('apl'), algorithm.head('rpl')])
    assert isinstance(model.pos_head, nn.ModuleList) and len(model.pos_head) == 2
    losses = model.loss(*algorithm.batch())
    assert torch.isfinite(losses['loss_apl'] + losses['loss_rpl'])


@every_algorithm
def test_heads_read_the_visible_tokens(name):
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head('apl'))
    seen = record(model, algorithm.batch())
    assert len(seen) == algorithm.passes
    for tokens, grid_shape, indices in seen:
        assert tokens.shape == (4, algorithm.visible, algorithm.channels)
        assert tuple(grid_shape) == algorithm.grid
        N = algorithm.grid[0] * algorithm.grid[1]
        if algorithm.visible == N:
            assert indices is None
        else:
            assert indices.shape == (4, algorithm.visible)
            assert all(len(row.unique()) == len(row) for row in indices)
            assert 0 <= indices.min() and indices.max() < N


@every_algorithm
def test_tokens_are_normalised(name):
    """By the encoder's final norm, or in its place (Sec. 3.2: z)."""
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head('apl'))
    tokens = record(model, algorithm.batch())[0].tokens
    zeros = torch.zeros(tokens.shape[:2])
    torch.testing.assert_close(tokens.mean(-1), zeros, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(-1, unbiased=False), zeros + 1, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    'name, norm',
    [
        ('MAE', 'norm1'),
        ('BEiT', 'norm1'),
        ('CAE', 'norm1'),
        ('MFF', 'norm1'),
        ('MaskFeat', 'norm1'),
        ('MILAN', 'norm1'),
        ('MoCo v3', 'norm1'),
        ('SimMIM', 'norm3'),
        ('MixMIM', 'norm'),
    ],
)
def test_where_the_encoder_has_a_final_norm_it_is_that_one(name, norm):
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head('apl'))
    layer = getattr(model.backbone, norm)
    layer.weight.data.zero_()
    layer.bias.data.fill_(3)
    tokens = record(model, algorithm.batch())[0].tokens
    assert torch.equal(tokens, torch.full_like(tokens, 3))


class Same(nn.Module):
    """In place of a layer: hands its input on."""

    def forward(self, x, *_, **__):
        return x


def leave_tokens_alone(model):
    """Let channel 0 of every token say what its patch's first pixel is."""
    backbone = model.backbone
    model.normalise = False
    for layers in 'layers', 'blocks', 'proj_layers':
        for i in range(len(getattr(backbone, layers, ()))):
            getattr(backbone, layers)[i] = Same()
    if hasattr(backbone, 'ln1'):
        backbone.ln1 = Same()
    if getattr(backbone, 'pos_embed', None) is not None:
        backbone.pos_embed.data.zero_()
    projection = getattr(backbone.patch_embed, 'projection', None)
    if projection is None:  # HiViT's
        projection = backbone.patch_embed.proj
        backbone.patch_embed.norm = None
        backbone.ape = False
    projection.weight.data.zero_()
    projection.weight.data[0, 0, 0, 0] = 1
    if projection.bias is not None:
        projection.bias.data.zero_()
    if getattr(backbone, 'cls_token', None) is not None:
        backbone.cls_token.data.fill_(-1)
    if hasattr(backbone, 'mask_token'):
        backbone.mask_token.data = torch.full((1, 1, projection.out_channels), -2.0)


def backbone_inputs(model, batch):
    """What the algorithm gives its backbone."""
    seen = []
    handle = model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    model.loss(*batch)
    handle.remove()
    return seen[-1]


def marked_images(shape, grid_shape):
    """The first pixel of patch i, from 0 on, is i + 1."""
    images = torch.zeros(shape)
    (H, W), (height, width) = grid_shape, shape[-2:]
    places = torch.arange(1.0, H * W + 1).view(H, W)
    images[:, 0, :: height // H, :: width // W] = places
    return images


@pytest.mark.parametrize('name', [name for name in ALGORITHMS if name not in ('SimMIM', 'MixMIM')])
def test_every_visible_token_carries_the_label_of_its_patch(name):
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head('apl'))
    images, *masking = backbone_inputs(model, algorithm.batch())
    leave_tokens_alone(model)
    tokens, (H, W), indices = model.patch_tokens(
        marked_images(images.shape, algorithm.grid), *masking
    )
    if indices is None:
        indices = torch.arange(H * W)
    assert torch.equal(tokens[..., 0], (indices + 1.0).expand(4, -1))


def test_simmim_reads_where_the_whole_token_is_visible():
    algorithm = ALGORITHMS['SimMIM']
    model = algorithm.build(algorithm.head('apl'))
    images, mask = backbone_inputs(model, algorithm.batch())
    feature_map = torch.arange(1.0, 17).view(1, 1, 4, 4).expand(4, 64, 4, 4)
    tokens, _, indices = model.read_tokens((images, mask), (feature_map,))
    assert torch.equal(tokens[..., 0], indices + 1.0)
    for row, sample in zip(indices, algorithm.batch()[1]):
        visible = sample.mask[::8, ::8].flatten() == 0
        assert torch.equal(row, visible.nonzero().flatten())


@pytest.mark.parametrize('name', ['SimMIM', 'BEiT'])
def test_a_mask_that_leaves_nothing_is_refused(name):
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head('apl'))
    images, samples = algorithm.batch()
    samples[0].mask.fill_(1)
    with pytest.raises(UserError, match='no visible patch'):
        model.loss(images, samples)


def test_masks_that_leave_other_numbers_of_patches_are_refused():
    algorithm = ALGORITHMS['MaskFeat']
    model = algorithm.build(algorithm.head('apl'))
    images, samples = algorithm.batch()
    fuller = samples[0].mask.clone().flatten()
    fuller[(fuller == 0).nonzero()[0]] = 1
    samples[0].set_mask(fuller.view(14, 14))
    with pytest.raises(UserError, match='leave 9 to 10 patches visible'):
        model.loss(images, samples)


@every_algorithm
def test_state_dict_is_the_stock_one_plus_pos_head(name):
    algorithm = ALGORITHMS[name]
    stock = algorithm.build()
    ours = algorithm.build(algorithm.head('apl'), seed=5)
    extra = set(ours.state_dict()) - set(stock.state_dict())
    assert extra and all(key.startswith('pos_head.') for key in extra)
    from_stock = ours.load_state_dict(stock.state_dict(), strict=False)
    assert set(from_stock.missing_keys) == extra
    assert not from_stock.unexpected_keys
    fresh = algorithm.build(seed=9)
    from_ours = fresh.load_state_dict(ours.state_dict(), strict=False)
    assert set(from_ours.unexpected_keys) == extra
    assert not from_ours.missing_keys
    loaded = fresh.state_dict()  # takes its time with hundreds of weights
    for key, value in stock.state_dict().items():
        assert torch.equal(loaded[key], value), key


@every_algorithm
def test_evaluation_runs_no_head(name):
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head('apl'), training=False)
    model.pos_head.forward = None  # to call it is an error
    assert algorithm.loss in model.loss(*algorithm.batch())
    batch = algorithm.batch()[0]
    images = batch[0] if isinstance(batch, list) else batch
    features = []
    for each in model, algorithm.build(training=False):
        torch.manual_seed(3)  # stock MFF masks here, too
        features.append(each.extract_feat(images)[-1])
    assert torch.equal(*features)


@every_algorithm
def test_without_heads_it_is_the_stock_algorithm(name):
    algorithm = ALGORITHMS[name]
    model = algorithm.build()
    cfg = algorithm.cfg() | dict(type=f'poslabel_mm.{algorithm.name}')
    torch.manual_seed(0)
    headless = MMPRETRAIN_MODELS.build(cfg)
    headless.init_weights()
    headless.target_generator = model.target_generator
    assert headless.state_dict().keys() == model.state_dict().keys()
    outs = []
    for each in (headless, model):
        torch.manual_seed(3)
        outs.append(each.loss(*algorithm.batch()))
    assert outs[0].keys() == outs[1].keys()
    assert all(torch.equal(outs[0][key], outs[1][key]) for key in outs[0])


@every_head
def test_views_are_averaged_and_the_momentum_encoder_is_not_read(kind):
    algorithm = ALGORITHMS['MoCo v3']
    model = algorithm.build(algorithm.head(kind))
    views, samples = algorithm.batch()
    losses = model.loss(views, samples)
    of_views = [model.position_losses(view) for view in views]
    for key in f'loss_{LABELS[kind]}', f'{LABELS[kind]}_acc':
        torch.testing.assert_close(losses[key], (of_views[0][key] + of_views[1][key]) / 2)
    assert not any(
        hooks for module in model.momentum_encoder.modules() for hooks in [module._forward_hooks]
    )


def test_a_user_adds_another_algorithm_by_mixing_in():
    """As docs/self_supervised.md shows."""

    class PositionalLabelSimCLR(ViewLabels, SimCLR):
        pass

    algorithm = ALGORITHMS['MoCo v3']
    cfg = mocov3()
    model = PositionalLabelSimCLR(
        backbone=dict(type='VisionTransformer') | VIT,
        neck=cfg['neck'],
        head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.1),
        pos_head=algorithm.head('apl'),
    )
    losses = model.loss(*algorithm.batch())
    assert set(losses) == {'loss_view', 'loss_apl', 'apl_acc'}


def test_another_resolution_is_an_error_that_names_both_grids():
    algorithm = ALGORITHMS['MoCo v3']
    model = algorithm.build(algorithm.head('apl'))
    views = [view.repeat(1, 1, 1, 2) for view in algorithm.batch()[0]]
    with pytest.raises(UserError, match=r'4x8 patch grid.*grid_size=\(4, 4\)'):
        model.loss(views, algorithm.batch()[1])


def test_a_ratio_that_leaves_no_token_is_refused_by_milan_too():
    algorithm = ALGORITHMS['MILAN']
    cfg = algorithm.cfg() | dict(
        type='poslabel_mm.PositionalLabelMILAN', pos_head=algorithm.head('apl')
    )
    cfg['backbone']['mask_ratio'] = 0.99
    with pytest.raises(UserError, match='leaves none of'):
        MMPRETRAIN_MODELS.build(cfg)


@pytest.mark.parametrize('name', ['MAE', 'MAE-HiViT', 'MFF', 'EVA', 'MILAN', 'iTPN'])
@pytest.mark.parametrize('height, width', [(8, 32), (16, 24)])
def test_images_of_another_size_are_refused_by_name(name, height, width):
    """Of 8x32 pixels there are as many patches, in other places."""
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head('apl', on_grid_mismatch='rescale'))
    images, samples = algorithm.batch()
    resized = images.repeat(1, 1, 1, 2)[..., :height, :width]
    with pytest.raises(
        UserError,
        match=rf'{height}x{width} pixels .* 16x16 pixels, 4x4 '
        rf'patches.*img_size=\({height}, {width}\)',
    ):
        model.loss(resized, samples)
    model.loss(images, samples)


@pytest.mark.parametrize('name', ['MFF', 'MILAN', 'iTPN'])
def test_a_non_square_grid_is_refused_with_advice_that_works(name):
    algorithm = ALGORITHMS[name]
    cfg = algorithm.cfg() | dict(type=f'poslabel_mm.{algorithm.name}')
    cfg['backbone']['img_size'] = 12, 20
    cfg['neck']['num_patches'] = 15
    with pytest.raises(UserError, match='wants a square .*3x5: .*square img_size$'):
        MMPRETRAIN_MODELS.build(cfg)


def without_a_mask(name, kind):
    algorithm = ALGORITHMS[name]
    cfg = algorithm.cfg()
    cfg['backbone']['mask_ratio'] = 0
    return Algorithm(**vars(algorithm) | dict(cfg=lambda: cfg)).build(
        algorithm.head(kind)
    ), algorithm.batch()


@every_head
@pytest.mark.parametrize('name', ['MAE', 'MAE-HiViT', 'MFF', 'EVA', 'MILAN', 'iTPN'])
def test_without_a_mask_every_patch_has_a_label(name, kind):
    model, batch = without_a_mask(name, kind)
    losses = model.loss(*batch)
    model.parse_losses(losses)[0].backward()
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert losses[f'loss_{LABELS[kind]}'] > 0
    assert (losses['loss_recon'] == 0) == (name != 'MILAN')  # it has no mask


def test_clips_masks_come_with_the_data_whatever_the_ratio():
    model, batch = without_a_mask('iTPN-CLIP', 'apl')
    expected = ALGORITHMS['iTPN-CLIP'].build(ALGORITHMS['iTPN-CLIP'].head('apl')).loss(*batch)
    losses = model.loss(*batch)
    assert losses['loss_recon'] > 0
    assert all(torch.equal(losses[key], expected[key]) for key in expected)


@pytest.mark.parametrize('name', ['MAE', 'MILAN'])
def test_without_heads_no_ratio_is_refused_for_them(name):
    cfg = ALGORITHMS[name].cfg()
    cfg['backbone']['mask_ratio'] = 0.99
    cfg['type'] = f'poslabel_mm.{ALGORITHMS[name].name}'
    assert MMPRETRAIN_MODELS.build(cfg).backbone.mask_ratio == 0.99


def test_simmims_checkpointed_layers_give_the_same_gradients():
    algorithm = ALGORITHMS['SimMIM']
    results = []
    for with_cp in False, True:
        cfg = algorithm.cfg()
        cfg['backbone']['with_cp'] = with_cp
        model = Algorithm(**vars(algorithm) | dict(cfg=lambda: cfg)).build(
            [algorithm.head('apl'), algorithm.head('rpl')]
        )
        torch.manual_seed(3)
        losses = model.loss(*algorithm.batch())
        model.parse_losses(losses)[0].backward()
        results.append(
            [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        )
    assert len(results[0]) > 10
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    'name, changes',
    [
        ('MAE', dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none')),
        ('MAE-HiViT', dict(type='poslabel_mm.PositionalMAEHiViT', pos_encoding='none')),
        ('EVA', dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none')),
        ('BEiT', dict(use_shared_rel_pos_bias=False)),
        ('BEiT v2', dict(use_shared_rel_pos_bias=False)),
        ('MoCo v3', dict(type='poslabel_mm.PositionalMoCoV3ViT', pos_encoding='none')),
    ],
)
def test_encoding_is_left_out_as_documented(name, changes):
    """Where all patches look the same, no token differs from another."""
    algorithm = ALGORITHMS[name]
    spread = []
    for change in dict(), changes:
        cfg = algorithm.cfg()
        cfg['backbone'].update(change)
        model = Algorithm(**vars(algorithm) | dict(cfg=lambda: cfg)).build(algorithm.head('apl'))
        inputs, *masking = backbone_inputs(model, algorithm.batch())
        for parameter in model.backbone.parameters():
            # A relative bias starts from 0.
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        tokens = model.patch_tokens(torch.ones_like(inputs), *masking).tokens
        spread.append(tokens.std(1).max())
    assert spread[1] < 1e-4 < 1e-3 < spread[0]
