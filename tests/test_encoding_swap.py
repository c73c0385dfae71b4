"""DILEMMA: patches with the positional encoding of another place, and the head that finds them."""

import copy
import pickle
import shutil

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor
from models import apl_head, batch, build, classifier, tiny_vit
from selfsup_models import ALGORITHMS, rpl_head
from tiny_run import make_config, make_images, train
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from poslabel_mm.errors import UserError
from poslabel_mm.models import (
    AxialRelativeLabelHead,
    OffsetRegressionHead,
    PositionalLabelHead,
    PositionRegressionHead,
    RelativePositionalLabelHead,
    SwappedEncodingHead,
)
from poslabel_mm.models.backbones.encoding_swap import EncodingSwap
from poslabel_mm.tokens import PatchTokenReader, PatchTokens, SwappedTokens

pytestmark = pytest.mark.computes

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def length_of_training():
    """Which MoCo v3 reads from the Runner's messages."""
    MessageHub.get_current_instance().update_info('max_iters', 10)


def vit(pos_swap=None, **kwargs):
    return tiny_vit(type='poslabel_mm.PositionalVisionTransformer', pos_swap=pos_swap, **kwargs)


def swap_head(**kwargs):
    return dict(type='poslabel_mm.SwappedEncodingHead', in_channels=16) | kwargs


def watch(backbone):
    """What every pass gives its first layer: patches, tokens (B, E + N, C), and which it says."""
    seen, patches = [], []
    backbone.patch_embed.register_forward_hook(lambda _, __, output: patches.append(output[0]))
    backbone.layers[0].register_forward_pre_hook(
        lambda _, inputs: seen.append((patches.pop(), inputs[0], backbone.swapped_patches))
    )
    return seen


def encodings_of(backbone, patches, tokens):
    """The places whose encodings the tokens have, int64 (B, N)."""
    N = patches.shape[1]
    encoding = backbone.pos_embed[:, -N:]
    torch.testing.assert_close(
        tokens[:, :-N],
        (backbone.pos_embed[:, :-N] + backbone.cls_token).expand(len(tokens), -1, -1),
    )
    # [B, token, place]
    same = (tokens[:, -N:].unsqueeze(2) == patches.unsqueeze(2) + encoding).all(-1)  # [B, N, N]
    assert torch.equal(same.sum(-1), torch.ones_like(same.sum(-1)))
    return same.byte().argmax(-1)


# -------------------------------------------------------------------------------- the backbone


@pytest.mark.parametrize(
    'N, share, count', [(16, 0.2, 3), (16, 0.01, 2), (2, 0.9, 2), (1, 0.5, 0)]
)
def test_as_many_patches_of_every_image_exchange_their_encodings(N, share, count):
    swap = EncodingSwap(share)
    first, second = swap.draw(64, N, CPU), swap.draw(64, N, CPU)
    for places in first, second:
        assert torch.equal(places.sort(dim=1).values, torch.arange(N).expand(64, N))
        assert ((places != torch.arange(N)).sum(1) == count).all()
    if N == 16:
        assert not torch.equal(first, second)
        # Every patch is drawn, and may get any other place's encoding.
        pairs = torch.cat([swap.draw(4096, N, CPU) for _ in range(4)])
        frequency = F.one_hot(pairs, N).float().mean(0)
        # Of 16384 draws: the standard deviations are 0.0009 and, of the own place, 0.003.
        off = ~torch.eye(N, dtype=torch.bool)
        assert (frequency[off] - count / N / (N - 1)).abs().max() < 0.004
        assert (frequency.diag() - (1 - count / N)).abs().max() < 0.015


@pytest.mark.parametrize('pos_encoding', ['learned', 'sincos', 'learned_sincos'])
def test_drawn_patches_have_the_encoding_of_another_place(pos_encoding):
    images, _ = batch(6)
    backbone = build(vit(0.3, pos_encoding=pos_encoding))
    seen = watch(backbone)
    backbone(images), backbone(images)
    drawn = []
    for patches, tokens, swapped in seen:
        places = encodings_of(backbone, patches, tokens)
        assert torch.equal(places != torch.arange(16), swapped)
        assert torch.equal(places.sort(dim=1).values, torch.arange(16).expand(6, 16))
        assert swapped.sum(1).tolist() == [5] * 6
        drawn.append(swapped)
    assert not torch.equal(*drawn)


def test_images_of_another_resolution():
    backbone = build(vit(0.5))
    seen = watch(backbone)
    backbone(batch(3, 8, 12)[0])
    ((patches, tokens, swapped),) = seen
    assert swapped.sum(1).tolist() == [3] * 3
    stock = build(vit())
    kept = watch(stock)
    stock(batch(3, 8, 12)[0])
    same = (kept[0][1] == tokens)[:, 1:].all(-1)
    assert torch.equal(same, ~swapped)
    # The encodings of an image are the same ones in another order.
    ours, theirs = ((t[:, 1:] - patches).sum(-1).sort(dim=1).values for t in (tokens, kept[0][1]))
    torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def logits(model, images):
    torch.manual_seed(4)
    return model(images)[0]


def test_evaluation_and_no_swapping_are_the_stock_model():
    images, _ = batch()
    stock = build(tiny_vit(drop_rate=0.1))
    for pos_swap in None, 0, 0.5:
        ours = build(vit(pos_swap, drop_rate=0.1))
        assert ours.state_dict().keys() == stock.state_dict().keys()
        ours.eval(), stock.eval()
        assert torch.equal(logits(ours, images), logits(stock, images))
        ours.train(), stock.train()
        # Of a pass without gradient, as a momentum encoder's, too.
        assert torch.equal(logits(ours, images), logits(stock, images))
        outputs = []
        for model in ours, stock:
            torch.manual_seed(4)
            outputs.append(model(images)[0])
        assert torch.equal(*outputs) == (not pos_swap)
        after = torch.rand(3)  # what else is random stays what it is
        torch.manual_seed(4)
        stock(images)
        assert torch.equal(torch.rand(3), after)


def test_seed_and_rank_of_a_step_decide_the_draw(monkeypatch):
    """As after a resume: the steps before do not count."""
    swap, resumed = EncodingSwap(0.5), EncodingSwap(0.5)
    draws = []
    for step in range(3):
        torch.manual_seed(100 + step)
        draws.append(swap.draw(4, 16, CPU))
    torch.manual_seed(102)
    assert torch.equal(resumed.draw(4, 16, CPU), draws[2])
    assert not torch.equal(draws[1], draws[2])
    monkeypatch.setattr('poslabel_mm.models.random_stream.get_rank', lambda: 1)
    assert not torch.equal(EncodingSwap(0.5).draw(4, 16, CPU), draws[2])


def test_a_patch_that_loses_its_encoding_has_none_of_another_place():
    backbone = build(vit(0.5, pos_drop=dict(patches=0.5)))
    seen = watch(backbone)
    backbone(batch(8)[0])
    ((patches, tokens, swapped),) = seen
    N = patches.shape[1]
    dropped = (tokens[:, -N:] == patches).all(-1)
    own = (tokens[:, -N:] == patches + backbone.pos_embed[:, -N:]).all(-1)
    assert torch.equal(swapped, ~dropped & ~own)
    assert 0 < swapped.sum() < 8 * 8 and dropped.sum() == 8 * 8


def test_a_repeated_forward_pass_is_refused():
    model = build(vit(0.5))
    images = batch()[0].requires_grad_()
    output = checkpoint(lambda x: model(x)[0], images, use_reentrant=False)
    with pytest.raises(UserError, match="^pos_swap .*checkpoint the backbone's layers"):
        output.sum().backward()


@pytest.mark.parametrize(
    'options, line',
    [
        (
            dict(pos_swap=1),
            'pos_swap=1 is refused: set it to None or a number from 0 on, below 1$',
        ),
        (dict(pos_swap=-0.1), 'pos_swap=-0.1 is refused'),
        (dict(pos_swap=True), 'pos_swap=True is refused'),
        (dict(pos_swap='0.2'), "pos_swap='0.2' is refused"),
        (dict(pos_swap=float('nan')), 'pos_swap=nan is refused'),
        (dict(pos_swap=0.2, pos_encoding='none'), 'pos_swap=0.2 finds no encoding to swap'),
        (dict(pos_swap=0.2, pos_encoding='rope'), 'pos_swap=0.2 finds no encoding to swap'),
        (
            dict(pos_swap=0.2, pos_drop=dict(patches=0.5, labelled='dropped')),
            "pos_swap=0.2 exchanges encodings, and with pos_drop.labelled='dropped'",
        ),
    ],
)
def test_bad_options_are_refused(options, line):
    with pytest.raises(UserError, match=f'^{line}'):
        build(vit(**options))


# ------------------------------------------------------------------------------------ the head


def written_out(head, tokens, swapped):
    """Token by token, in plain Python."""
    losses, right = [], {True: [], False: []}
    for token, label in zip(tokens.flatten(0, 1), swapped.flatten().tolist()):
        logit = head.classifier.weight[0] @ token + head.classifier.bias[0]
        losses.append(-torch.log(torch.sigmoid(logit if label else -logit)))
        right[label].append((logit.item() > 0) == label)
    kinds = [100 * sum(kind) / len(kind) for kind in right.values() if kind]
    return sum(losses) / len(losses), sum(kinds) / len(kinds)


def tokens_and_swaps(B=3, N=6, C=8):
    tokens = torch.randn(B, N, C, dtype=torch.float64, requires_grad=True)
    return tokens, torch.rand(B, N) < 0.3


@pytest.mark.parametrize('kind', ['mixed', 'own', 'other'])
def test_loss_is_the_plain_one(kind):
    head = SwappedEncodingHead(8, 0.25, dict(type='Xavier', layer='Linear')).double()
    head.init_weights()
    torch.manual_seed(1)
    tokens, swapped = tokens_and_swaps()
    swapped = dict(mixed=swapped, own=swapped & False, other=swapped | True)[kind]
    given = SwappedTokens(tokens, (2, 3), None, swapped)
    if kind == 'own':
        given = PatchTokens(tokens, (2, 3))
    out = head.loss(given)
    expected, acc = written_out(head, tokens, swapped)
    wanted = [tokens, *head.parameters()]
    torch.testing.assert_close(out['loss_swap'], 0.25 * expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out['swap_acc'].item(), acc, rtol=1e-6, atol=1e-6)
    for ours, plain in zip(
        torch.autograd.grad(out['loss_swap'], wanted), torch.autograd.grad(expected, wanted)
    ):
        torch.testing.assert_close(ours, 0.25 * plain, rtol=1e-10, atol=1e-10)


def test_copies_keep_what_was_swapped():
    tokens, swapped = tokens_and_swaps()
    given = SwappedTokens(tokens.detach(), (2, 3), torch.arange(6).expand(3, 6), swapped)
    for copied in (
        pickle.loads(pickle.dumps(given)),
        copy.deepcopy(given),
        tree_map_only(torch.Tensor, torch.clone, given),
        BaseDataPreprocessor().cast_data(given),
        given._replace(tokens=given.tokens.clone()),
    ):
        assert type(copied) is SwappedTokens
        assert copied.grid_shape == (2, 3)
        for ours, expected in zip(copied[::2], given[::2]):
            assert torch.equal(ours, expected)
        assert torch.equal(copied.swapped, swapped)
    with pytest.raises(TypeError):
        PatchTokens(*given)  # not without the flags unnoticed


@pytest.mark.parametrize(
    'head',
    [
        PositionalLabelHead,
        PositionRegressionHead,
        RelativePositionalLabelHead,
        AxialRelativeLabelHead,
        OffsetRegressionHead,
    ],
)
@pytest.mark.parametrize('grid', [(2, 3), (4, 6)])
def test_heads_of_places_take_swapped_tokens(head, grid):
    tokens, swapped = tokens_and_swaps(N=grid[0] * grid[1])
    head = head(8, (2, 3), on_grid_mismatch='rescale').double()
    found = []
    for given in PatchTokens(tokens, grid), SwappedTokens(tokens, grid, None, swapped):
        predicted = [value for value in head.predict(given) if torch.is_tensor(value)]
        found.append([*head.loss(given).values(), *predicted])
    torch.testing.assert_close(*found)


def test_a_head_that_always_says_own_is_half_right():
    head = SwappedEncodingHead(8)
    torch.nn.init.zeros_(head.classifier.weight), torch.nn.init.constant_(head.classifier.bias, -1)
    tokens = torch.randn(4, 10, 8)
    swapped = EncodingSwap(0.2).draw(4, 10, CPU) != torch.arange(10)
    assert head.loss(SwappedTokens(tokens, (2, 5), None, swapped))['swap_acc'] == 50


def test_autocast_keeps_the_loss_in_float32():
    head = SwappedEncodingHead(8)
    tokens, swapped = tokens_and_swaps()
    given = SwappedTokens(tokens.float(), (2, 3), None, swapped)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out, predictions = head.loss(given), head.predict(given)
    assert out['loss_swap'].dtype == predictions.probabilities.dtype == torch.float32
    torch.testing.assert_close(
        out['loss_swap'], head.loss(given)['loss_swap'], rtol=1e-2, atol=1e-2
    )


def test_predict_is_what_the_loss_counts():
    head = SwappedEncodingHead(8).double()
    tokens, swapped = tokens_and_swaps()
    indices = torch.stack([torch.randperm(12)[:6] for _ in range(3)])
    given = SwappedTokens(tokens, (3, 4), indices, swapped)
    predictions = head.predict(given)
    assert predictions.grid_shape == (3, 4)
    assert torch.equal(predictions.true_places, indices)
    assert torch.equal(predictions.swapped, swapped)
    found = predictions.probabilities > 0.5
    acc = 50 * (found[swapped].float().mean() + (~found[~swapped]).float().mean())
    torch.testing.assert_close(acc, head.loss(given)['swap_acc'])
    assert not head.predict(PatchTokens(tokens, (2, 3))).swapped.any()


def test_what_was_swapped_can_be_read_off_the_tokens():
    """The whole way, in closed form: encoding, layer, reader, flags and head are in one order."""
    arch = dict(embed_dims=128, num_layers=1, num_heads=4, feedforward_channels=256)
    backbone = build(vit(0.34, arch=arch, img_size=(8, 12), out_type='featmap')).double()
    torch.nn.init.normal_(backbone.pos_embed)
    image = batch(1, 8, 12)[0].double().expand(128, -1, -1, -1)  # patches are told apart
    reader = PatchTokenReader(backbone)

    def read():
        with reader:
            backbone(image)
        return reader.take()

    seen = read()
    tokens = seen.tokens.detach().flatten(0, 1)
    ones = torch.ones(len(tokens), 1, dtype=torch.float64)
    truth = seen.swapped.flatten().double() * 2 - 1
    fitted = torch.linalg.pinv(torch.cat([tokens, ones], dim=1), rtol=1e-10) @ truth
    head = SwappedEncodingHead(128).double()
    with torch.no_grad():
        head.classifier.weight[0], head.classifier.bias[0] = fitted[:-1], fitted[-1]
    drawn = read()
    assert not torch.equal(drawn.swapped, seen.swapped)
    assert head.loss(drawn)['swap_acc'] > 99
    others = drawn._replace(swapped=drawn.swapped.roll(1, dims=1))  # those of the patch beside
    assert head.loss(others)['swap_acc'] < 60


def test_tokens_of_another_width_are_refused():
    with pytest.raises(UserError, match='have 8 channels but SwappedEncodingHead .*in_channels=8'):
        SwappedEncodingHead(16).loss(PatchTokens(torch.randn(1, 4, 8), (2, 2)))


# ---------------------------------------------------------------------------- where it is trained


def test_the_reader_tells_the_head_which_patches_were_swapped():
    neck = dict(type='poslabel_mm.PatchTokenNeck', stage=0)
    model = build(classifier([swap_head(), apl_head()], backbone=vit(0.3), pos_neck=neck))
    seen = watch(model.backbone)
    images, samples = batch(3)
    losses = model.loss(images, samples)
    assert {'loss_cls', 'loss_swap', 'swap_acc', 'loss_apl', 'apl_acc'} == set(losses)
    given = model.patch_tokens(images)
    assert torch.equal(given.swapped, seen[-1][2]) and given.swapped.sum() == 3 * 5
    losses['loss_swap'].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {'backbone.pos_embed', 'pos_head.0.classifier.weight'} <= trained
    # The label of a patch is where it is, whatever its encoding.
    assert torch.equal(
        model.predict_positions(given)['apl'].true_places, torch.arange(16).expand(3, 16)
    )
    model.eval()
    assert set(model.loss(images, samples)) == {'loss_cls'}
    assert not model.predict_positions(model.patch_tokens(images))['swap'].swapped.any()
    assert model.position_losses(images)['loss_swap'].isfinite()


def test_a_reader_of_an_earlier_pass_is_not_told_of_a_later_one():
    backbone = build(vit(0.3))
    reader = PatchTokenReader(backbone)
    with reader:
        backbone(batch()[0])
    assert reader.take().swapped.any()
    with reader, torch.no_grad():
        backbone(batch()[0])
    assert type(reader.take()) is PatchTokens


@pytest.mark.parametrize('share', [0, 0.3])
def test_weight_zero_trains_as_without_the_head(share):
    losses = []
    for pos_head in None, swap_head(loss_weight=0):
        backbone = vit(share, drop_rate=0.1)
        if pos_head is None and not share:
            backbone = tiny_vit(drop_rate=0.1)  # the stock model
        model = build(classifier(pos_head, backbone=backbone))
        torch.manual_seed(3)
        total, log = model.parse_losses(model.loss(*batch()))
        total.backward()
        gradients = [p.grad for name, p in model.named_parameters() if 'pos_head' not in name]
        losses.append([log.get('loss_cls', log['loss']), *gradients])
    assert all(map(torch.equal, *losses))


@pytest.mark.slow
def test_a_resumed_run_swaps_what_it_would_have_swapped(tmp_path):
    options = {
        'model.backbone.type': 'poslabel_mm.PositionalVisionTransformer',
        'model.backbone.pos_swap': 0.4,
        'model.pos_head': [swap_head()],
    }
    cfg = make_config(tmp_path, make_images(tmp_path / 'train'), 'whole', **options)
    losses = train(cfg)
    resumed = tmp_path / 'resumed'
    resumed.mkdir()
    shutil.copy(tmp_path / 'whole/epoch_1.pth', resumed)
    (resumed / 'last_checkpoint').write_text(str(resumed / 'epoch_1.pth'))
    cfg.work_dir, cfg.resume = str(resumed), True
    cfg.experiment_name += '_resumed'
    torch.manual_seed(1)  # whatever was drawn before must not matter
    assert train(cfg) == losses[3:]


def mocov3(pos_head, **backbone):
    cfg = ALGORITHMS['MoCo v3'].cfg() | dict(
        type='poslabel_mm.PositionalLabelMoCoV3', pos_head=pos_head
    )
    cfg['backbone'] |= backbone
    return cfg


def test_the_momentum_encoder_of_mocov3_has_the_right_encodings():
    model = build(
        mocov3([swap_head(), rpl_head()], type='poslabel_mm.PositionalMoCoV3ViT', pos_swap=0.3)
    )
    encoders = model.backbone, model.momentum_encoder.module[0]
    of_model, of_momentum = (watch(encoder) for encoder in encoders)
    given = []
    model.pos_head[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    losses = model.loss(*ALGORITHMS['MoCo v3'].batch())
    assert {'loss_view', 'loss_swap', 'swap_acc', 'loss_rpl', 'rpl_acc'} == set(losses)
    assert len(of_model) == len(of_momentum) == len(given) == 2
    for patches, tokens, swapped in of_model:
        places = encodings_of(encoders[0], patches, tokens)
        assert torch.equal(places != torch.arange(16), swapped) and swapped.sum() == 4 * 5
    assert not torch.equal(of_model[0][2], of_model[1][2])
    for patches, tokens, swapped in of_momentum:
        assert swapped is None
        assert torch.equal(
            encodings_of(encoders[1], patches, tokens), torch.arange(16).expand(4, -1)
        )


def mae(pos_head, name='MAE', **backbone):
    cfg = ALGORITHMS[name].cfg() | dict(
        type=f'poslabel_mm.{ALGORITHMS[name].name}', pos_head=pos_head
    )
    cfg['backbone'] |= dict(type='poslabel_mm.PositionalMAEViT') | backbone
    return cfg


@pytest.mark.parametrize('ratio, visible, count', [(0.75, 4, 2), (0.5, 8, 3), (0, 16, 6)])
def test_visible_patches_of_mae_exchange_their_encodings(ratio, visible, count):
    model = build(mae([swap_head(), apl_head()], pos_swap=0.4, mask_ratio=ratio))
    backbone, first = model.backbone, []
    backbone.layers[0].register_forward_pre_hook(lambda _, inputs: first.append(inputs[0]))
    patches = []
    backbone.patch_embed.register_forward_hook(lambda _, __, output: patches.append(output[0]))
    seen = []
    for head in model.pos_head:
        head.loss = lambda given: seen.append(given) or {}
    for _ in range(2):
        model.loss(*ALGORITHMS['MAE'].batch())
        tokens, grid_shape, indices, swapped = seen[-1]
        assert grid_shape == (4, 4) and swapped.shape == indices.shape == (4, visible)
        assert swapped.sum(1).tolist() == [count] * 4
        own = patches[-1].take_along_dim(indices.unsqueeze(-1), dim=1).unsqueeze(2)
        # [B, token, place]; what keeps its own encoding has exactly the stock sum.
        away = (first[-1][:, 1:].unsqueeze(2) - own - backbone.pos_embed[:, 1:]).abs().amax(-1)
        places = away.argmin(-1)
        assert away.amin(-1).max() < 1e-5 < 1e-2 < away.topk(2, largest=False).values[..., 1].min()
        assert torch.equal(places != indices, swapped)
        assert torch.equal(places.sort(dim=1).values, indices.sort(dim=1).values)
    assert len(seen) == 4


@pytest.mark.parametrize('name', ['MAE', 'EVA'])
def test_mae_with_nothing_exchanged_is_the_stock_one(name):
    algorithm, results = ALGORITHMS[name], []
    for cfg in mae(None, name), mae([swap_head(loss_weight=0)], name, pos_swap=0):
        model = build(cfg)
        model.target_generator = algorithm.targets()
        torch.manual_seed(3)
        total, log = model.parse_losses(model.loss(*algorithm.batch()))
        total.backward()
        trained = [name for name, p in model.named_parameters() if p.grad is not None]
        gradients = [model.get_parameter(name).grad for name in trained if 'pos_head' not in name]
        results.append([log.get('loss_recon', log['loss']), *gradients])
    assert len(results[0]) > 20
    for stock, ours in zip(*results, strict=True):
        assert torch.equal(stock, ours)


def test_evaluation_of_mae_exchanges_nothing():
    model = build(mae([swap_head(), apl_head()], pos_swap=0.4))
    images = ALGORITHMS['MAE'].batch()[0]
    assert type(model.patch_tokens(images)) is SwappedTokens
    assert type(model.eval().patch_tokens(images)) is PatchTokens
    with pytest.raises(UserError, match='^model.backbone.pos_swap=0.4 finds no encoding to swap'):
        build(mae([swap_head()], pos_swap=0.4, pos_encoding='none'))


@pytest.mark.parametrize(
    'cfg, line',
    [
        (classifier(swap_head()), 'VisionTransformer .*: set model.backbone.type to poslabel_mm'),
        (
            classifier([apl_head(), swap_head()], backbone=vit()),
            'PositionalVisionTransformer .*: set model.backbone.pos_swap to .*, such as 0.2$',
        ),
        (mocov3(swap_head()), 'MoCoV3ViT .*poslabel_mm.PositionalMoCoV3ViT'),
        (
            ALGORITHMS['MAE'].cfg()
            | dict(type='poslabel_mm.PositionalLabelMAE', pos_head=swap_head()),
            'MAEViT gives each its own: set model.backbone.type .*in MAE poslabel_mm.Positional',
        ),
        (mae(swap_head()), 'PositionalMAEViT gives each its own: set model.backbone.pos_swap'),
    ],
    ids=['stock ViT', 'no share', 'stock MoCo v3', 'stock MAE', 'MAE'],
)
def test_a_backbone_that_swaps_nothing_is_refused(cfg, line):
    with pytest.raises(UserError, match=rf'^model\.pos_head(\.1)?: SwappedEncodingHead .*{line}'):
        build(cfg)
