"""MAE with position heads on the visible tokens (Sec. 3.3)."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import load_checkpoint
from mmpretrain.models.selfsup import MAE
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from models import apl_head, batch, build, classifier
from selfsup_models import HEADS, LABELS, PIXELS, VIT, decoder, hivit, images, mae, plain_batch
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models import PositionalLabelMAE
from poslabel_mm.tokens.labels import num_absolute, patch_centres
from poslabel_mm.tokens.masked import check_mask_ratio

pytestmark = pytest.mark.computes

RATIOS = [0, 0.25, 0.5, 0.75, 0.9]
every_head = pytest.mark.parametrize('kind', HEADS)
every_choice_of_heads = pytest.mark.parametrize(
    'kinds',
    [(), ('apl',), ('rpl',), ('apl', 'rpl')],
    ids=lambda kinds: '+'.join(kinds) or 'no head',
)


def heads(kinds, **kwargs):
    return [HEADS[kind](**kwargs) for kind in kinds] or None


def labelled_mae(pos_head, backbone=None, **kwargs):
    backbone = dict(type='poslabel_mm.PositionalMAEViT', pos_encoding='none') | (
        backbone or dict()
    )
    return mae(backbone) | dict(type='poslabel_mm.PositionalLabelMAE', pos_head=pos_head) | kwargs


def encoder_of_markers(img_size, mask_ratio, **kwargs):
    """MAE whose tokens are its patches' first pixels, one after another."""
    H, W = img_size[0] // 4, img_size[1] // 4
    model = build(
        labelled_mae(
            backbone=dict(img_size=img_size, mask_ratio=mask_ratio), neck=None, head=None, **kwargs
        )
    )
    encoder = model.backbone
    encoder.layers = nn.ModuleList()
    encoder.ln1 = nn.Identity()
    encoder.patch_embed.projection.weight.data = torch.eye(48)[:16].view(16, 3, 4, 4)
    encoder.patch_embed.projection.bias.data.zero_()
    encoder.cls_token.data.fill_(1)  # no patch looks like it
    return model, H, W


def marked_images(size, H, W):
    """In patch i only pixel i is 1."""
    patches = torch.eye(48)[: H * W].view(H, W, 3, 4, 4)
    image = patches.permute(2, 0, 3, 1, 4).reshape(3, 4 * H, 4 * W)
    return image.expand(size, -1, -1, -1)


def teach(head, kind, grid_shape):
    """Make a head say what the markers of a token, or of two, mean."""
    H, W = grid_shape
    N = num_absolute(grid_shape)
    answers = getattr(head, head.output_name)
    for linear in (head.fc1, head.fc2, answers):
        linear.weight.data.zero_()
        linear.bias.data.zero_()
    head.fc2.weight.data.copy_(torch.eye(len(head.fc2.weight)))
    if kind in ('apl', 'coord'):
        # A hidden channel for each marker, 10 where it is there.
        head.fc1.weight.data[:N, :N] = 10 * torch.eye(N)
        right = 10 * torch.eye(N) if kind == 'apl' else patch_centres(grid_shape).T / 10
        answers.weight.data[:, :N] = right
        return
    # One for each pair: 10 if both markers are there.
    pairs = [(i, j) for i in range(N) for j in range(N)]
    for k, (i, j) in enumerate(pairs):
        head.fc1.weight.data[k, i] = 20
        head.fc1.weight.data[k, 16 + j] = 20
        rows, columns = i // W - j // W, i % W - j % W
        if kind == 'rpl':
            label = (rows + H - 1) * (2 * W - 1) + (columns + W - 1)
            answers.weight.data[label, k] = 10
        elif kind == 'axial':
            answers.weight.data[[rows + H - 1, 2 * H - 1 + columns + W - 1], k] = 10
        else:
            answers.weight.data[:, k] = torch.tensor([rows / H, columns / W]) / 10
    head.fc1.bias.data.fill_(-30)


@every_head
@pytest.mark.parametrize('img_size', [(16, 16), (12, 20), (20, 12)])
@pytest.mark.parametrize('mask_ratio', RATIOS)
def test_labels_are_right_for_every_mask(mask_ratio, img_size, kind):
    """A head that knows the markers by heart must be right on every token."""
    grid_shape = img_size[0] // 4, img_size[1] // 4
    N = num_absolute(grid_shape)
    widths = dict(channels='all', hidden_channels=16, feat_channels=16)
    if kind in ('rpl', 'axial', 'offset'):
        widths = dict(
            query_channels='all', key_channels='all', hidden_channels=N * N, feat_channels=N * N
        )
    head = HEADS[kind](grid_size=grid_shape, loss_weight=1.0, **widths)
    model, H, W = encoder_of_markers(img_size, mask_ratio, pos_head=head)
    teach(model.pos_head, kind, grid_shape)
    batch = marked_images(5, H, W)
    tokens, _, indices = model.patch_tokens(batch)
    n = int(N * (1 - mask_ratio))
    assert tokens.shape == (5, n, 16) and indices.shape == (5, n)
    assert torch.equal(tokens.argmax(-1), indices)
    if 1 < n < N:  # the masks of the images differ, and are shuffled
        assert len(indices.unique(dim=0)) > 1
    losses = model.position_losses(batch)
    assert losses[f'{LABELS[kind]}_acc'] == 100
    assert losses[f'loss_{LABELS[kind]}'] < 1e-2


def test_heads_read_after_the_final_norm_and_no_class_token():
    model = build(labelled_mae(HEADS['apl']()))
    seen = []
    model.backbone.ln1.register_forward_hook(lambda _module, _inputs, normed: seen.append(normed))
    tokens, grid_shape, _ = model.patch_tokens(images())
    assert grid_shape == (4, 4)
    assert torch.equal(tokens, seen[0][:, 1:])


@every_head
def test_reconstruction_is_the_stock_one(kind):
    """Same weights and mask: same loss, and the decoder sees the same."""
    ours = build(labelled_mae(HEADS[kind](), backbone=dict(pos_encoding='sincos')), seed=2)
    stock = build(mae(), seed=2)
    for key, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    losses = []
    for model in ours, stock:
        torch.manual_seed(6)
        losses.append(model.loss(*plain_batch()))
    assert set(losses[0]) >= {'loss_recon', f'loss_{LABELS[kind]}', f'{LABELS[kind]}_acc'}
    assert torch.equal(losses[0]['loss_recon'], losses[1]['loss'])


@every_choice_of_heads
def test_stock_tests_of_mae_pass(kinds):
    """What MMPretrain's own test_mae checks, which is not in its wheel."""
    cfg = mae()
    del cfg['type']
    model = PositionalLabelMAE(
        **cfg,
        pos_head=heads(kinds),
        data_preprocessor=dict(mean=[0.5] * 3, std=[0.5] * 3, to_rgb=True),
    )
    assert isinstance(model, MAE)
    batch, samples = plain_batch()
    data = model.data_preprocessor(dict(inputs=batch, data_samples=samples))
    torch.testing.assert_close(data['inputs'], (batch.flip(1) - 0.5) / 0.5)
    losses = model(**data, mode='loss')
    name = 'loss_recon' if kinds else 'loss'
    assert set(losses) == {name}.union(*({f'loss_{kind}', f'{kind}_acc'} for kind in kinds))
    assert all(isinstance(value.item(), float) for value in losses.values())
    assert model(**data, mode='tensor')[0].shape == (4, 17, 16)
    with pytest.raises(RuntimeError, match='Invalid mode'):
        model(**data, mode='predict')


@every_choice_of_heads
@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'poslabel_mm.CPUAmpOptimWrapper'])
def test_a_step_of_the_optimizer_wrapper(kinds, wrapper):
    """In full and in mixed precision, of all losses and of nothing else."""
    model = build(
        labelled_mae(heads(kinds)) | dict(data_preprocessor=dict(mean=[0.5] * 3, std=[0.5] * 3))
    )
    batch, samples = plain_batch()
    data = dict(inputs=batch, data_samples=samples)
    expected = copy.deepcopy(model)
    torch.manual_seed(3)  # one mask
    with torch.autocast('cpu', torch.bfloat16, enabled='Amp' in wrapper):
        losses = expected(**expected.data_preprocessor(data), mode='loss')
        total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    optim_wrapper = OPTIM_WRAPPERS.build(
        dict(type=wrapper, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
    )
    torch.manual_seed(3)
    logged = model.train_step(data, optim_wrapper)
    assert all(torch.isfinite(value) for value in logged.values())
    torch.testing.assert_close(logged['loss'], total.detach())
    for (name, got), before in zip(model.named_parameters(), expected.parameters()):
        if before.requires_grad:
            assert before.grad.any() or name == 'backbone.cls_token', name
            torch.testing.assert_close(got, before - before.grad, msg=name)
        else:
            assert torch.equal(got, before), name


def test_a_deep_copy_reads_its_own_encoder():
    """As an exponential moving average of the model does."""
    model = build(labelled_mae(HEADS['apl']()))
    copied = copy.deepcopy(model)
    for parameter in copied.backbone.parameters():
        parameter.data.zero_()
    assert not copied.patch_tokens(images()).tokens.any()
    assert model.patch_tokens(images()).tokens.any()
    assert copied.loss(*plain_batch())['loss_apl'] > 0


@pytest.mark.slow
@every_head
def test_compiled_step_equals_the_plain_one(kind):
    results = []
    for compiled in False, True:
        model = build(labelled_mae(HEADS[kind]()))

        def total():
            torch.manual_seed(7)
            return model.parse_losses(model.loss(*plain_batch()))[0]

        loss = (torch.compile(total, backend='aot_eager') if compiled else total)()
        loss.backward()
        results.append([loss.detach()] + [p.grad for p in model.parameters()])
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected)


@every_head
def test_one_visible_token(kind):
    """A pair of a token with itself: a relation, if an easy one."""
    model = build(labelled_mae(HEADS[kind](), dict(mask_ratio=15 / 16)))
    assert model.patch_tokens(images()).tokens.shape == (4, 1, 16)
    losses = model.loss(*plain_batch())
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize('mask_ratio', [0.95, 1, 1.5, -0.25])
def test_a_ratio_that_leaves_no_token_is_refused(mask_ratio):
    with pytest.raises(
        UserError, match=rf'mask_ratio={mask_ratio} .*none of 16 .*from 0 to 0.937'
    ):
        build(labelled_mae(HEADS['apl'](), dict(mask_ratio=mask_ratio)))


@pytest.mark.parametrize('num_patches', [1, 2, 3, 5, 10, 16, 20, 49, 100, 196])
def test_the_ratio_that_is_offered_leaves_a_token(num_patches):
    """1 - 1 / N in floating point may leave none: of 10 patches 0.9 does."""
    with pytest.raises(UserError) as refused:
        check_mask_ratio(1, num_patches)
    offered = float(str(refused.value).rpartition(' ')[2])
    assert int(num_patches * (1 - offered)) >= 1  # as MAE counts
    check_mask_ratio(offered, num_patches)
    with pytest.raises(UserError):
        check_mask_ratio(offered + 1e-3 * (1 + 1e-9), num_patches)


@every_head
def test_without_a_mask_the_labels_alone_train(kind):
    model = build(labelled_mae(HEADS[kind](), dict(mask_ratio=0)))
    losses = model.loss(*plain_batch())
    assert losses['loss_recon'] == 0
    assert losses[f'loss_{LABELS[kind]}'] > 0
    total, _ = model.parse_losses(losses)
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:  # or distributed training would stop
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    assert model.backbone.layers[0].ffn.layers[1].weight.grad.any()


def test_published_loader_accepts_both_directions(tmp_path):
    stock, ours = build(mae()), build(labelled_mae(HEADS['apl']()), seed=5)
    for source, target in (stock, ours), (ours, build(mae(), seed=7)):
        path = str(tmp_path / 'checkpoint.pth')
        torch.save(dict(state_dict=source.state_dict()), path)
        load_checkpoint(target, path)
        for key in set(source.state_dict()) & set(target.state_dict()):
            assert torch.equal(target.state_dict()[key], source.state_dict()[key]), key


@pytest.mark.parametrize('pos_encoding', ['none', 'sincos'])
def test_finetuning_keeps_its_sincos_encoding(tmp_path, pos_encoding):
    """A checkpoint without encoding leaves the fine-tuned model's in place."""
    source = build(labelled_mae(HEADS['apl'](), dict(pos_encoding=pos_encoding)), seed=4)
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(dict(state_dict=source.state_dict()), path)
    backbone = dict(
        type='poslabel_mm.PositionalVisionTransformer',
        pos_encoding='learned_sincos',
        out_type='avg_featmap',
        final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'),
    )
    tuned = build(classifier(apl_head(), VIT | backbone)).backbone
    expected = build_2d_sincos_position_embedding((4, 4), 16, cls_token=True)
    assert torch.equal(tuned.pos_embed.data, expected)
    assert tuned.pos_embed.requires_grad
    for key, value in source.backbone.state_dict().items():
        if key.startswith(('layers', 'patch_embed', 'cls_token')):
            assert torch.equal(tuned.state_dict()[key], value), key


# ---------------------------------------------------------- non-square grids


def oblong_mae(img_size, kinds, encoder='ViT'):
    H, W = grid_shape = img_size[0] // 4, img_size[1] // 4
    channels = dict(ViT=16, HiViT=32)[encoder]
    cfg = labelled_mae(heads(kinds, grid_size=grid_shape, in_channels=channels))
    cfg['backbone']['img_size'] = img_size
    if encoder == 'HiViT':
        cfg['backbone'] = hivit(
            'poslabel_mm.PositionalMAEHiViT', img_size=img_size, pos_encoding='none'
        )
    cfg['neck'] = decoder(num_patches=H * W, embed_dim=channels)
    return cfg


@every_choice_of_heads
@pytest.mark.parametrize('encoder', ['ViT', 'HiViT'])
def test_a_non_square_grid_from_pretraining_to_finetuning(tmp_path, encoder, kinds):
    img_size = 12, 20
    model = build(oblong_mae(img_size, kinds, encoder))
    inputs = images(side=20)[:, :, :12]
    torch.manual_seed(3)
    total, _ = model.parse_losses(model.loss(inputs, []))
    total.backward()
    for name, parameter in model.named_parameters():
        if 'layers.1.ffn' in name or 'blocks.9.mlp' in name or 'pos_head' in name:
            assert parameter.grad.any(), name
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.zero_grad(set_to_none=True)
    copied = copy.deepcopy(model)
    for each in model, copied:
        torch.manual_seed(3)
        each.losses = each.loss(inputs, [])
    assert all(torch.equal(copied.losses[k], model.losses[k]) for k in model.losses)
    if encoder == 'HiViT':
        return
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(dict(state_dict=model.state_dict()), path)
    tuned = build(
        classifier(
            heads(kinds, grid_size=(3, 5)),
            VIT
            | dict(
                type='poslabel_mm.PositionalVisionTransformer',
                img_size=img_size,
                pos_encoding='learned_sincos',
                init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'),
            ),
        )
    )
    assert torch.equal(
        tuned.backbone.layers[1].ffn.layers[1].weight,
        model.backbone.layers[1].ffn.layers[1].weight,
    )
    losses = tuned.loss(*batch(2, *img_size))
    assert all(torch.isfinite(value).all() for value in losses.values())


@pytest.mark.parametrize('H, W', [(3, 5), (5, 3), (2, 8)])  # 16 is a square
def test_decoder_and_target_follow_a_non_square_grid(H, W):
    model = build(oblong_mae((4 * H, 4 * W), ()))
    inputs = images(side=32)[:, :, : 4 * H, : 4 * W]
    target = model.head.patchify(inputs)
    for i in range(H * W):
        row, column = divmod(i, W)
        patch = inputs[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(target[:, i], patch.permute(0, 2, 3, 1).flatten(1))
    assert torch.equal(model.head.unpatchify(target), inputs)
    # As in the corner of a square that holds the grid.
    side = max(H, W)
    square = build(mae(dict(img_size=4 * side)) | dict(neck=decoder(num_patches=side * side)))
    encoding = (
        square.neck.decoder_pos_embed[:, 1:].unflatten(1, (side, side))[:, :H, :W].flatten(1, 2)
    )
    torch.testing.assert_close(model.neck.decoder_pos_embed[:, 1:], encoding)
    assert not model.neck.decoder_pos_embed[:, 0].any()
    assert model.neck.mask_token.any()


def test_the_target_of_a_square_is_laid_out_as_on_a_non_square():
    square, oblong = build(mae()), build(oblong_mae((12, 20), ()))
    assert torch.equal(square.head.patchify(images()), oblong.head.patchify(images()))


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            dict(backbone=dict(type='MAEViT', img_size=(12, 20), patch_size=4)),
            'MAEViT wants a square patch grid, not 3x5.* use PositionalMAEViT',
        ),
        (
            dict(neck=decoder(num_patches=16)),
            '3x5 patches of 4x4 pixels.*--cfg-options model.neck.num_patches=15$',
        ),
        (
            dict(head=dict(type='MAEPretrainHead', patch_size=8, loss=PIXELS)),
            '--cfg-options model.head.patch_size=4$',
        ),
    ],
)
def test_what_does_not_fit_a_non_square_grid_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build(oblong_mae((12, 20), ()) | changes)


def test_a_decoder_of_another_square_is_refused():
    with pytest.raises(UserError, match='num_patches=16'):
        build(labelled_mae(None, neck=decoder(num_patches=25)))


@pytest.mark.parametrize(
    'make, img_size, grid, num_patches',
    [
        ('MAEViT', 16, '2x2', 4),
        ('PositionalMAEViT', (16, 24), '2x3', 6),
        ('PositionalMAEHiViT', (16, 24), '2x3', 6),
    ],
)
def test_another_patch_size_names_every_option_that_follows(make, img_size, grid, num_patches):
    prefix = 'poslabel_mm.' if make.startswith('Positional') else ''
    of_encoder = dict(type=prefix + make, img_size=img_size, patch_size=8, mask_ratio=0.5)
    backbone = hivit(of_encoder.pop('type'), **of_encoder) if 'HiViT' in make else VIT | of_encoder
    cfg = labelled_mae(None) | dict(backbone=backbone)
    cfg['neck']['embed_dim'] = 32 if 'HiViT' in make else 16
    with pytest.raises(UserError) as refused:
        build(cfg)
    options = {'neck.num_patches': num_patches, 'neck.patch_size': 8, 'head.patch_size': 8}
    assert str(refused.value) == (
        f'the encoder has {grid} patches of 8x8 pixels, and the decoder and '
        'the target have to follow: --cfg-options '
        + ' '.join(f'model.{key}={value}' for key, value in options.items())
    )
    # With them it trains.
    cfg = Config(dict(model=cfg))
    cfg.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    losses = build(cfg.model).loss(images(side=24)[..., :height, :width], [])
    assert losses['loss'].isfinite()


def test_a_decoder_of_features_in_place_of_pixels_is_refused():
    with pytest.raises(UserError, match=r'options model.neck.predict_feature_dim=48$'):
        build(labelled_mae(None, neck=decoder(predict_feature_dim=7)))


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(img_size=18), r'5x5 patches of 4x4 .*img_size="\(20,20\)"'),
        (dict(patch_size=(4, 8)), 'square patches, not of 4x8 pixels'),
    ],
)
def test_images_of_no_whole_square_patches_are_refused(changes, message):
    backbone = dict(type='poslabel_mm.PositionalMAEViT') | VIT | changes
    num_patches = 8 if 'patch_size' in changes else 16
    with pytest.raises(UserError, match=message):
        build(labelled_mae(None, neck=decoder(num_patches=num_patches)) | dict(backbone=backbone))


@pytest.mark.parametrize('height, width', [(20, 12), (12, 24), (24, 40)])
@pytest.mark.parametrize('kinds', [(), ('apl',)])
@pytest.mark.parametrize('encoder', ['ViT', 'HiViT'])
def test_images_of_another_size_than_the_grids_are_refused(encoder, kinds, height, width):
    """Of 20x12 pixels there are as many patches, in other places."""
    model = build(oblong_mae((12, 20), kinds, encoder))
    if kinds:
        model.pos_head.on_grid_mismatch = 'rescale'
    with pytest.raises(
        UserError,
        match=rf'{height}x{width} pixels have a {height // 4}x{width // 4} '
        r'patch grid.* 12x20 pixels, 3x5 patches.*backbone.img_size='
        rf'\({height}, {width}\)',
    ):
        model.loss(images(side=40)[..., :height, :width], [])


def test_without_a_mask_images_may_have_another_size():
    """As in the stock encoders, which then interpolate their encoding."""
    inputs = images(side=24)
    model = build(oblong_mae((12, 20), ()))
    assert model(inputs[:, :, :20, :12], mode='tensor')[0].shape[1] == 16
    square = hivit('poslabel_mm.PositionalMAEHiViT')
    assert build(square)(inputs, mask=None)[-1].shape[2:] == (6, 6)
    oblong = hivit('poslabel_mm.PositionalMAEHiViT', img_size=(12, 20))
    assert build(oblong)(inputs, mask=None)[-1].shape[2:] == (6, 6)


def test_a_copy_has_a_decoder_and_a_target_of_its_own():
    model = build(oblong_mae((12, 20), ()))
    copied = copy.deepcopy(model)
    encoding, mask_token = (
        getattr(model.neck, name).clone() for name in ('decoder_pos_embed', 'mask_token')
    )
    copied.neck.decoder_pos_embed.data.fill_(7)
    copied.neck.init_weights()
    assert torch.equal(copied.neck.decoder_pos_embed, encoding)
    assert torch.equal(model.neck.decoder_pos_embed, encoding)
    assert torch.equal(model.neck.mask_token, mask_token)
    for name in 'patchify', 'unpatchify':
        of_copy, of_model = (getattr(each.head, name).__self__ for each in (copied, model))
        assert of_copy is not of_model, name


class StridedPatches(nn.Module):
    """An encoder of a user's own: no `patch_resolution`, no `img_size`."""

    mask_ratio, num_patches = 0.75, 16

    def __init__(self):
        super().__init__()
        self.projection = nn.Conv2d(3, 16, 4, 4)

    def forward(self, images, mask=True):
        tokens = self.projection(images).flatten(2).transpose(1, 2)
        B, N, _ = tokens.shape
        ids_restore = torch.arange(N).expand(B, -1)
        masked = (ids_restore >= N // 4).float()
        # The first stands in for the class token.
        return tokens[:, : 1 + N // 4], masked, ids_restore


def test_without_heads_an_encoder_need_not_tell_its_grid():
    losses = []
    for cfg in mae(), labelled_mae(None):
        torch.manual_seed(2)
        cfg['backbone'] = StridedPatches()
        model = build(cfg)
        losses.append(model.loss(*plain_batch()))
    assert torch.equal(losses[0]['loss'], losses[1]['loss'])
    with pytest.raises(UserError, match='StridedPatches .*patch_resolution'):
        build(labelled_mae(HEADS['apl']()) | dict(backbone=StridedPatches()))
