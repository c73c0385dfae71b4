"""The points that the README promises of a labelled classifier."""

import copy
from functools import partial
from unittest import mock

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from models import apl_head, batch, build, classifier, tiny_vit
from torch.utils.checkpoint import checkpoint

from poslabel_mm.errors import UserError

pytestmark = pytest.mark.computes

DEIT_INIT = [
    dict(type='TruncNormal', layer='Linear', std=0.02),
    dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
]
# Dropout and drop path make a shifted random stream visible in the losses.
NOISY = tiny_vit(drop_rate=0.2, drop_path_rate=0.2)


def head_for(out_type):
    if out_type in ('cls_token', 'avg_featmap'):
        return dict()
    neck = dict(type='GlobalAveragePooling') if out_type == 'featmap' else None
    return dict(neck=neck) | (dict(head=None) if neck is None else dict())


@pytest.mark.parametrize('out_type', ['cls_token', 'avg_featmap', 'featmap', 'raw'])
def test_output_equals_the_stock_classifiers(out_type):
    images, _ = batch()
    cfg = dict(backbone=tiny_vit(out_type=out_type)) | head_for(out_type)
    stock = build(classifier(**cfg), training=False)
    ours = build(classifier(apl_head(), **cfg), training=False)
    expected, got = stock(images), ours(images)
    if isinstance(expected, torch.Tensor):
        expected, got = [expected], [got]
    assert all(map(torch.equal, got, expected))


def test_predictions_and_features_equal_the_stock_classifiers():
    images, samples = batch()
    stock = build(classifier(), training=False)
    ours = build(classifier(apl_head()), training=False)
    for a, b in zip(
        ours.predict(images, copy.deepcopy(samples)), stock.predict(images, copy.deepcopy(samples))
    ):
        assert torch.equal(a.pred_score, b.pred_score)
    for stage in ('backbone', 'neck', 'pre_logits'):
        a, b = (m.extract_feat(images, stage=stage) for m in (ours, stock))
        a, b = (x if isinstance(x, torch.Tensor) else x[-1] for x in (a, b))
        assert torch.equal(a, b)


def test_evaluation_runs_no_position_head_and_costs_the_same():
    images, samples = batch()
    stock = build(classifier(), training=False)
    ours = build(classifier(apl_head()), training=False)

    def refuse(*_):
        raise AssertionError('the position head ran')

    ours.pos_head.forward = refuse
    ours(images)
    ours.predict(images, copy.deepcopy(samples))
    assert list(ours.loss(images, samples)) == ['loss_cls']
    flops = [
        get_model_complexity_info(model, (3, 16, 16), show_table=False, show_arch=False)['flops']
        for model in (ours, stock)
    ]
    assert flops[0] == flops[1]


@pytest.mark.parametrize('init_cfg', [None, DEIT_INIT], ids=['none', 'deit'])
@pytest.mark.parametrize('several', [False, True])
def test_weight_zero_trains_as_the_stock_classifier(init_cfg, several):
    """Same seed: same weights, losses and gradients, noise included."""
    pos_head = apl_head(loss_weight=0.0)
    if several:
        pos_head = [pos_head]
    cfg = dict(backbone=NOISY, init_cfg=init_cfg)
    results = []
    for model in (build(classifier(**cfg)), build(classifier(pos_head, **cfg))):
        model.train()
        images, samples = batch()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(3)
        losses, gradients = [], []
        for _ in range(3):
            optimizer.zero_grad()
            out = model.loss(images, samples)
            losses.append(out['loss_cls'] if 'loss_cls' in out else out['loss'])
            sum(v for k, v in out.items() if 'loss' in k).backward()
            gradients.append(
                {
                    name: parameter.grad.clone()
                    for name, parameter in model.named_parameters()
                    if not name.startswith('pos_head')
                }
            )
            optimizer.step()
        results.append((losses, gradients))
    (stock_losses, stock_grads), (our_losses, our_grads) = results
    assert all(map(torch.equal, our_losses, stock_losses))
    for ours, stock in zip(our_grads, stock_grads):
        assert ours.keys() == stock.keys()
        for name in stock:
            assert torch.equal(ours[name], stock[name]), name


def test_labels_train_the_backbone():
    images, samples = batch()
    model = build(classifier(apl_head()))
    out = model.loss(images, samples)
    assert set(out) == {'loss_cls', 'loss_apl', 'apl_acc'}
    out['loss_apl'].backward()
    grads = [p.grad for p in model.backbone.layers.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in grads[:8])


def test_logged_total_is_the_sum():
    images, samples = batch()
    model = build(classifier(apl_head()))
    total, log_vars = model.parse_losses(model.loss(images, samples))
    assert log_vars['loss'] == log_vars['loss_cls'] + log_vars['loss_apl']
    assert torch.equal(total, log_vars['loss'])


def test_two_heads_of_a_kind_are_refused():
    """Their losses would share a name, and one of them would be lost."""
    cfg = classifier([apl_head(), apl_head(channels='second_half')])
    with pytest.raises(
        UserError, match=r'^model\.pos_head\.1: two position heads return loss_apl'
    ):
        build(cfg)


@pytest.mark.parametrize('pos_head', [[], {}])
def test_no_head_at_all_is_refused(pos_head):
    with pytest.raises(UserError, match='has no pos_head'):
        build(classifier() | dict(type='poslabel_mm.PositionalLabelClassifier', pos_head=pos_head))


def test_none_for_a_head_is_the_stock_classifier():
    cfg = classifier() | dict(type='poslabel_mm.PositionalLabelClassifier', pos_head=None)
    assert type(build(cfg)) is ImageClassifier
    assert type(build(cfg | dict(pos_neck=dict(type='poslabel_mm.PatchTokenNeck', stage=0)))) is (
        ImageClassifier
    )


def test_a_built_head_is_taken_as_stock_parts_are():
    head = MODELS.build(apl_head())
    assert build(classifier(head)).pos_head is head


def test_building_a_head_touches_no_random_stream():
    """Not even the seed that waits for CUDA to be initialised."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with (
        mock.patch.object(torch.cuda, 'manual_seed_all') as seed_devices,
        mock.patch.object(torch.cuda, 'manual_seed') as seed_device,
    ):
        MODELS.build(apl_head()).init_weights()
    assert not seed_devices.called and not seed_device.called
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.initial_seed() == 0


def test_state_dict_is_the_stock_one_plus_pos_head():
    stock, ours = build(classifier()), build(classifier(apl_head()), seed=5)
    extra = set(ours.state_dict()) - set(stock.state_dict())
    assert set(stock.state_dict()) <= set(ours.state_dict())
    assert extra and all(name.startswith('pos_head.') for name in extra)
    assert ours.load_state_dict(stock.state_dict(), strict=False).missing_keys == sorted(
        extra, key=list(ours.state_dict()).index
    )
    images, _ = batch()
    assert torch.equal(ours.eval()(images), stock.eval()(images))
    fresh = build(classifier(), seed=9)
    unexpected = fresh.load_state_dict(ours.state_dict(), strict=False).unexpected_keys
    assert set(unexpected) == extra
    assert torch.equal(fresh.eval()(images), stock(images))


def test_pretrained_init_cfg_loads_the_position_head_too(tmp_path):
    source = build(classifier(apl_head()), seed=4)
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(dict(state_dict=source.state_dict()), path)
    model = build(classifier(apl_head(), init_cfg=dict(type='Pretrained', checkpoint=path)))
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize('size', [1, 2, 5])
def test_labels_follow_the_grid_not_the_batch(size):
    model = build(classifier(apl_head(grid_size=(3, 5)), backbone=tiny_vit(img_size=(12, 20))))
    images, samples = batch(size, 12, 20)
    one_by_one = [model.position_losses(image[None])['loss_apl'] for image in images]
    together = model.loss(images, samples)['loss_apl']
    torch.testing.assert_close(together, sum(one_by_one) / size)


def test_another_resolution_is_an_error_that_names_both_grids():
    model = build(classifier(apl_head()))
    with pytest.raises(UserError, match=r'4x5 patch grid.*grid_size=\(4, 4\)'):
        model.loss(*batch(2, 16, 20))
    assert torch.isfinite(model.loss(*batch())['loss_apl'])


@pytest.mark.slow
def test_compiled_and_checkpointed_steps_equal_the_plain_one():
    images, samples = batch()

    def step(model, compiled=False):
        def total():
            return model.parse_losses(model.loss(images, samples))[0]

        loss = (torch.compile(total, backend='aot_eager') if compiled else total)()
        loss.backward()
        return loss.detach(), [p.grad for p in model.parameters()]

    plain = step(build(classifier(apl_head())))
    compiled = step(build(classifier(apl_head())), compiled=True)
    checkpointed_model = build(classifier(apl_head()))
    backbone = checkpointed_model.backbone
    backbone.forward = partial(checkpoint, backbone.forward, use_reentrant=False)
    for loss, grads in (compiled, step(checkpointed_model)):
        torch.testing.assert_close(loss, plain[0])
        for got, expected in zip(grads, plain[1]):
            torch.testing.assert_close(got, expected)


def test_published_loader_accepts_both_directions():
    """MMEngine's own loader, as `load_from` uses it, in strict=False."""
    stock, ours = build(classifier()), build(classifier(apl_head()), seed=5)
    load_state_dict(ours, stock.state_dict(), strict=False)
    assert torch.equal(ours.head.fc.weight, stock.head.fc.weight)


def test_what_every_head_predicts_is_named_as_its_loss():
    model = build(classifier([apl_head(channels='all')]), training=False)
    patch_tokens = model.patch_tokens(batch()[0])
    predictions = model.predict_positions(patch_tokens)
    assert list(predictions) == ['apl']
    expected = model.pos_head[0].predict(patch_tokens)
    assert predictions['apl'].probabilities.equal(expected.probabilities)
    assert predictions['apl'].true_places.equal(torch.arange(16).expand(2, 16))
