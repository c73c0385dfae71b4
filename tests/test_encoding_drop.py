"""`pos_drop`: training without the positional encoding of drawn patches."""

import copy
import shutil

import pytest
import torch
from mmengine.logging import MessageHub
from models import apl_head, batch, build, classifier, tiny_vit
from selfsup_models import ALGORITHMS, rpl_head
from tiny_run import make_config, make_images, train
from torch.utils.checkpoint import checkpoint

from poslabel_mm.errors import UserError
from poslabel_mm.models.backbones.encoding_drop import EncodingDrop
from poslabel_mm.tokens import PatchTokenReader

pytestmark = pytest.mark.computes


def vit(pos_drop=None, **kwargs):
    return tiny_vit(type='poslabel_mm.PositionalVisionTransformer', pos_drop=pos_drop, **kwargs)


def watched(model):
    """Patches without encoding (B, N, C) and what the first layer gets (B, E + N, C), by pass."""
    seen = []
    model.patch_embed.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def dropped_places(model, images):
    """Where the first layer gets a patch without its encoding, bool (B, N)."""
    seen = watched(model)
    model(images)
    patches, tokens = seen[:2]
    B, N, _ = patches.shape
    E = tokens.shape[1] - N
    encoding = model.pos_embed
    if encoding.shape[1] == E + N:
        torch.testing.assert_close(
            tokens[:, :E], (encoding[:, :E] + model.cls_token).expand(B, -1, -1)
        )
    dropped = (tokens[:, E:] == patches).all(dim=-1)
    if encoding.shape[1] == E + N:  # every other one has all of its encoding
        kept = (tokens[:, E:] == patches + encoding[:, E:]).all(dim=-1)
        assert torch.equal(kept, ~dropped)
    return dropped


@pytest.mark.parametrize('pos_encoding', ['learned', 'sincos', 'learned_sincos'])
def test_as_many_patches_of_every_image_lose_their_encoding(pos_encoding):
    images, _ = batch(6)
    model = build(vit(dict(patches=0.7), pos_encoding=pos_encoding))
    first, second = dropped_places(model, images), dropped_places(model, images)
    assert first.sum(1).tolist() == second.sum(1).tolist() == [11] * 6  # 0.7 * 16 = 11.2
    assert not torch.equal(first, second)
    assert not all(torch.equal(first[0], row) for row in first)


def test_all_patches_of_drawn_images_lose_their_encoding():
    model = build(vit(dict(images=0.5)))
    counts = dropped_places(model, batch(64)[0]).sum(1)
    assert set(counts.tolist()) == {0, 16}
    assert 16 < (counts == 16).sum() < 48
    everywhere = build(vit(dict(images=1)))
    assert dropped_places(everywhere, batch(4)[0]).all()


def test_images_of_another_resolution():
    model = build(vit(dict(patches=0.5)))
    assert dropped_places(model, batch(3, 8, 12)[0]).sum(1).tolist() == [3] * 3


def test_an_encoding_that_is_dropped_gets_no_gradient():
    model = build(vit(dict(patches=0.75)))
    model(batch(1)[0])[0].square().sum().backward()
    learned = model.pos_embed.grad[0, 1:].abs().sum(-1) > 0
    assert learned.sum() == 4


def test_evaluation_and_no_dropping_are_the_stock_model():
    images, _ = batch()
    stock = build(tiny_vit(drop_rate=0.1))
    for pos_drop in None, dict(), dict(patches=0, images=0), dict(patches=0.75, images=0.5):
        ours = build(vit(pos_drop, drop_rate=0.1))
        assert ours.state_dict().keys() == stock.state_dict().keys()
        ours.eval(), stock.eval()
        assert torch.equal(ours(images)[0], stock(images)[0])
        if not pos_drop or not pos_drop['patches']:
            ours.train(), stock.train()
            outputs = []
            for model in ours, stock:
                torch.manual_seed(4)
                outputs.append(model(images)[0])
            assert torch.equal(*outputs)


def test_what_else_is_random_stays_what_it_is():
    images, _ = batch()
    model = build(vit(dict(patches=0.5, images=0.5), drop_rate=0.5))
    torch.manual_seed(4)
    model(images)
    after = torch.rand(3)
    stock = build(tiny_vit(drop_rate=0.5))
    torch.manual_seed(4)
    stock(images)
    assert torch.equal(torch.rand(3), after)


def test_the_seed_of_a_step_decides_the_draw():
    """As after a resume: the steps before do not count."""
    images, _ = batch(4)
    model, resumed = build(vit(dict(patches=0.5))), build(vit(dict(patches=0.5)))
    draws = []
    for step in range(3):
        torch.manual_seed(100 + step)
        draws.append(dropped_places(model, images))
    torch.manual_seed(102)
    assert torch.equal(dropped_places(resumed, images), draws[2])
    assert not torch.equal(draws[1], draws[2])


def test_a_resumed_run_drops_what_it_would_have_dropped(tmp_path):
    options = {
        'model.backbone.type': 'poslabel_mm.PositionalVisionTransformer',
        'model.backbone.pos_drop': dict(patches=0.5, images=0.2, labelled='dropped'),
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


def test_the_heads_label_dropped_patches_alone():
    model = build(
        classifier([apl_head(), rpl_head()], backbone=vit(dict(patches=0.75, labelled='dropped')))
    )
    backbone = model.backbone
    reader = PatchTokenReader(backbone)
    images, samples = batch(3)
    kept = []
    backbone._format_output, inner = (
        lambda tokens, grid: kept.append(tokens) or inner(tokens, grid),
        backbone._format_output,
    )
    with reader:
        dropped = dropped_places(backbone, images)
    tokens, grid_shape, places = reader.take()
    assert grid_shape == (4, 4) and places.shape == (3, 12)
    assert torch.equal(torch.zeros(3, 16).bool().scatter(1, places, True), dropped)
    for image in range(3):
        assert torch.equal(tokens[image], kept[0][image, 1:][places[image]])

    total, _ = model.parse_losses(model.loss(images, samples))
    total.backward()
    with torch.no_grad():
        given = model.patch_tokens(images)
        assert given.tokens.shape[1] == 12
        model.eval()
        assert model.patch_tokens(images).indices is None  # all of them
        assert model.position_losses(images)['apl_acc'] >= 0


def test_draws_of_images_leave_the_number_of_labels_alone():
    drop = EncodingDrop(patches=0.01, images=0.5, labelled='dropped')
    dropped, places = drop.draw(32, 16, torch.device('cpu'))
    assert places.shape == (32, 1)
    assert dropped.gather(1, places).all()
    assert set(dropped.sum(1).tolist()) == {1, 16}


def test_a_copy_draws_as_the_original():
    model = build(vit(dict(patches=0.5)))
    images, _ = batch()
    torch.manual_seed(7)
    expected = [dropped_places(copy.deepcopy(model), images) for _ in range(2)]
    expected.append(dropped_places(model, images))
    for drawn in expected[1:]:
        assert torch.equal(drawn, expected[0])
    after = copy.deepcopy(model)  # goes on where the original stands
    assert torch.equal(dropped_places(after, images), dropped_places(model, images))
    with torch.no_grad():  # as of a momentum encoder
        torch.manual_seed(7)
        assert not torch.equal(dropped_places(copy.deepcopy(model), images), expected[0])


def mocov3_draws(seeds):
    """Where MoCo v3 drops encodings: of every step, by encoder, two views of (B, N)."""
    mocov3 = ALGORITHMS['MoCo v3']
    cfg = mocov3.cfg() | dict(type='poslabel_mm.PositionalLabelMoCoV3', pos_head=apl_head())
    cfg['backbone'] |= dict(
        type='poslabel_mm.PositionalMoCoV3ViT', pos_drop=dict(patches=0.5, labelled='dropped')
    )
    model = build(cfg)
    encoders = model.backbone, model.momentum_encoder.module[0]
    seen = [watched(encoder) for encoder in encoders]
    labelled = []
    model.backbone.register_forward_hook(
        lambda backbone, *_: labelled.append(backbone.labelled_places)
    )
    steps = []
    for seed in seeds:
        for of_passes in *seen, labelled:
            of_passes.clear()
        torch.manual_seed(seed)
        losses = model.loss(*mocov3.batch())
        assert losses['loss_apl'].isfinite()
        steps.append(
            [  # patches and tokens of two views
                [
                    (tokens[:, 1:] == patches).all(dim=-1)
                    for patches, tokens in zip(of_passes[::2], of_passes[1::2], strict=True)
                ]
                for of_passes in seen
            ]
        )
        for view, places in zip(steps[-1][0], labelled, strict=True):
            assert torch.equal(torch.zeros(4, 16).bool().scatter(1, places, True), view)
    return steps


def test_both_encoders_of_mocov3_drop_patches_of_their_own():
    MessageHub.get_current_instance().update_info('max_iters', 10)
    steps = mocov3_draws([3, 4, 5])
    draws = [view for step in steps for encoder in step for view in encoder]
    assert [view.sum(1).tolist() for view in draws] == [[8] * 4] * 12
    assert len({view.numpy().tobytes() for view in draws}) == 12
    # As after a resume, which starts with the seed of the step.
    (resumed,) = mocov3_draws([5])
    assert all(map(torch.equal, sum(resumed, []), sum(steps[2], [])))


def test_a_repeated_forward_pass_is_refused():
    model = build(vit(dict(patches=0.5)))
    images = batch()[0].requires_grad_()
    output = checkpoint(lambda x: model(x)[0], images, use_reentrant=False)
    with pytest.raises(UserError, match="^pos_drop .*checkpoint the backbone's layers"):
        output.sum().backward()


@pytest.mark.parametrize(
    'pos_drop, line',
    [
        (0.75, 'pos_drop=0.75 is refused: set it to None or a dict of patches, images, labelled'),
        (dict(patch=0.5), 'pos_drop=.* is refused: set it to None or a dict of patches'),
        (dict(patches=1.5), 'pos_drop.patches=1.5 is refused: .* from 0 to 1'),
        (dict(images=-1), 'pos_drop.images=-1 is refused: .* from 0 to 1'),
        (dict(patches=0.5, labelled='none'), "pos_drop.labelled='none' is unknown"),
        (dict(images=0.5, labelled='dropped'), "pos_drop.labelled='dropped' leaves no patch"),
    ],
)
def test_bad_options_are_refused(pos_drop, line):
    with pytest.raises(UserError, match=f'^{line}'):
        build(vit(pos_drop))


@pytest.mark.parametrize('pos_encoding', ['none', 'rope'])
def test_without_an_encoding_there_is_none_to_drop(pos_encoding):
    with pytest.raises(UserError, match='^pos_drop=.* finds no encoding to drop'):
        build(vit(dict(patches=0.5), pos_encoding=pos_encoding))
