"""Where one view of an image lies in another: recorded, labelled and predicted."""

import math
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.logging import MessageHub
from mmpretrain.models.selfsup import SimCLR
from mmpretrain.registry import DATASETS, TRANSFORMS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from models import EMBED_DIMS, apl_head, build, classifier
from selfsup_models import ALGORITHMS, VIT, mocov3
from torch.nn import functional as F

from poslabel_mm import config_path
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.views import check_views
from poslabel_mm.models import PositionalLabelHead, ViewOffsetHead
from poslabel_mm.models.selfsup.view_labels import ViewLabels
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.views import Views, view_offsets

pytestmark = pytest.mark.computes

MOCO = ALGORITHMS['MoCo v3']
VIEW = dict(type='poslabel_mm.ViewOffsetHead', in_channels=EMBED_DIMS)


@pytest.fixture(autouse=True)
def length_of_training():
    """Which MoCo v3 reads from the Runner's messages."""
    MessageHub.get_current_instance().update_info('max_iters', 10)


def boxes(B=4, V=2):
    generator = torch.Generator().manual_seed(7)
    sizes = torch.rand(B, V, 2, generator=generator) * 20 + 4
    signs = torch.where(torch.rand(B, V, 2, generator=generator) < 0.5, -1.0, 1.0)
    centres = torch.rand(B, V, 2, generator=generator) * 30
    return torch.cat([centres, sizes * signs], dim=-1)


# --------------------------------------------------------------------------------------- geometry


def test_offsets_of_two_views_by_hand():
    # 20 rows below and 30 columns to the right, half as high and three times as wide.
    first, second = [10.0, 10.0, 40.0, 10.0], [30.0, 40.0, 20.0, 30.0]
    offsets = view_offsets(torch.tensor([[first, second]]))[0]
    assert torch.equal(offsets.diagonal().T, torch.zeros(2, 4))
    expected = torch.tensor([20 / 40, 30 / 10, math.log(1 / 2), math.log(3)])
    torch.testing.assert_close(offsets[1, 0], expected)
    expected = torch.tensor([-20 / 20, -30 / 30, math.log(2), -math.log(3)])
    torch.testing.assert_close(offsets[0, 1], expected)
    # Seen in a mirror, what lies to the right lies to the left; being mirrored does not count.
    mirrored = [*first[:3], -first[3]]
    offsets = view_offsets(torch.tensor([[mirrored, second]]))[0]
    torch.testing.assert_close(
        offsets[1, 0], torch.tensor([20 / 40, -30 / 10, math.log(1 / 2), math.log(3)])
    )
    torch.testing.assert_close(
        offsets[0, 1], torch.tensor([-20 / 20, -30 / 30, math.log(2), -math.log(3)])
    )


def pipeline(flips=None, num_views=2, crop='poslabel_mm.RecordedRandomResizedCrop'):
    transforms = [dict(type=crop, scale=(24, 32), crop_ratio_range=(0.2, 0.8))]
    if flips:
        transforms.append(dict(type='RandomFlip', prob=[0.3] * 3, direction=flips))
    kind = 'RecordedMultiView' if crop.startswith('poslabel_mm') else 'MultiView'
    prefix = 'poslabel_mm.' if kind.startswith('Recorded') else ''
    return TRANSFORMS.build(dict(type=prefix + kind, num_views=num_views, transforms=[transforms]))


def frame(view):
    """Where a view lies, read from pixels that hold their own row and column.

    Returns:
        tuple: Row and column of its centre, its height and its width, negative where mirrored.
    """
    rows, cols = view[..., 0].mean(1)[2:-2], view[..., 1].mean(0)[2:-2]  # borders are clamped
    height, width = (
        np.polyfit(np.arange(len(line)), line, 1)[0] * (len(line) + 4) for line in (rows, cols)
    )
    return view[..., 0].mean() + 0.5, view[..., 1].mean() + 0.5, height, width


@pytest.mark.parametrize('flipped_before', [False, True])
def test_boxes_are_where_the_pixels_come_from(flipped_before):
    H, W = 60, 90
    rows, cols = np.mgrid[:H, :W].astype(np.float32)
    image = np.stack([rows, cols, rows * 0], axis=-1)
    transform = pipeline(['horizontal', 'vertical', 'diagonal'])
    np.random.seed(0)
    flips = set()
    for _ in range(20):
        # A flip of the whole image that all views have in common is no flip of a view.
        before = dict(flip=True, flip_direction='horizontal') if flipped_before else dict()
        results = transform(dict(img=image.copy(), **before))
        found = torch.tensor(np.array([frame(view) for view in results['img']]))
        recorded = torch.from_numpy(results['view_boxes']).double()
        torch.testing.assert_close(recorded, found, atol=0.3, rtol=0.03)
        flips |= {tuple(box > 0) for box in recorded[:, 2:].numpy()}
        torch.testing.assert_close(
            view_offsets(recorded[None]), view_offsets(found[None]), atol=0.1, rtol=0.05
        )
        assert {key: results.get(key) for key in before} == before
    assert len(flips) == 4


def test_the_views_are_the_stock_ones():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    views = []
    for crop in 'RandomResizedCrop', 'poslabel_mm.RecordedRandomResizedCrop':
        np.random.seed(3)
        views.append(pipeline(['horizontal'] * 3, 3, crop)(dict(img=image.copy()))['img'])
    assert len(views[0]) == 3
    assert all(map(np.array_equal, *views))


def crop(**kwargs):
    return dict(type='poslabel_mm.RecordedRandomResizedCrop', scale=8) | kwargs


def apply(*transforms):
    return dict(type='RandomApply', transforms=list(transforms), prob=0.5)


FLIP = dict(type='RandomFlip', prob=0.5)
MOVES = {
    'RandomCrop': dict(type='RandomCrop', crop_size=4),
    'Rotate': apply(dict(type='Rotate', angle=30.0)),
    'Translate': dict(type='RandomChoice', transforms=[[dict(type='Translate', magnitude=0.1)]]),
    'Shear': apply(dict(type='Compose', transforms=[dict(type='Shear', magnitude=0.1)])),
    'RandomTranslatePad': dict(type='RandomTranslatePad'),
    'MAERandomResizedCrop': dict(type='MAERandomResizedCrop', size=8),
    'torchvision/RandomHorizontalFlip': dict(type='torchvision/RandomHorizontalFlip'),
}


@pytest.mark.parametrize(
    'views, line',
    [
        ([[FLIP]], 'transforms.0 has 0 RecordedRandomResizedCrop'),
        ([[crop()], [crop(type='RandomResizedCrop')]], 'transforms.1 has 0 Recorded'),
        ([[crop(), crop()]], 'transforms.0 has 2 Recorded'),
        ([[FLIP, crop()]], 'transforms.0 flips before it crops'),
        ([[crop(), FLIP, FLIP]], 'transforms.0 has 2 RandomFlip, .*direction=.*diagonal'),
        ([[crop(), apply(FLIP), FLIP]], 'transforms.0 has 2 RandomFlip'),
        ([[apply(FLIP), crop()]], 'transforms.0 flips before it crops'),
        ([[apply(crop())]], 'transforms.0 has its RecordedRandomResizedCrop in RandomApply'),
        ([[dict(type='ResizeEdge', scale=8), crop()]], 'transforms.0 has ResizeEdge before'),
        *(
            ([[crop(), move]], f'transforms.0 has {name}, which may move')
            for name, move in MOVES.items()
        ),
    ],
)
def test_views_that_could_not_be_recorded_are_refused(views, line):
    with pytest.raises(UserError, match=f'^{line}'):
        recorded(views)


def recorded(views):
    return TRANSFORMS.build(
        dict(type='poslabel_mm.RecordedMultiView', num_views=[1] * len(views), transforms=views)
    )


def test_colours_and_sizes_may_change_in_any_wrapper():
    view = [
        crop(),
        apply(dict(type='ColorJitter', brightness=0.4)),
        dict(
            type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.1, 0.2, 0.7)
        ),
        dict(type='RandomChoice', transforms=[[dict(type='Solarize', thr=128)], [FLIP]]),
        dict(type='GaussianBlur', magnitude_range=(0.1, 2), magnitude_std='inf', prob=0.5),
        dict(type='Resize', scale=6),
    ]
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    results = recorded([view])(dict(img=image))
    assert results['img'][0].shape[:2] == (6, 6) and results['view_boxes'].shape == (1, 4)


# ------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize('V', [2, 3])
def test_loss_and_gradients_are_those_of_a_plain_reference(V):
    head = ViewOffsetHead(6, hidden_channels=5, loss_weight=0.25).double()
    given = boxes(3, V).double()
    tokens = [torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True) for _ in range(V)]
    losses = head.loss(Views([PatchTokens(x, (2, 2)) for x in tokens], given))

    loss, shift, scale, count = 0, 0, 0, 0
    for b in range(3):
        for i in range(V):
            for j in range(V):
                if i == j:
                    continue
                x = torch.cat([tokens[i][b].mean(0), tokens[j][b].mean(0)])
                output = head.fc2(F.gelu(head.fc1(x)))
                (y, x, h, w), (cy, cx, ch, cw) = given[b, i], given[b, j]
                truth = torch.stack(
                    [(y - cy) / ch, (x - cx) / cw, (h / ch).abs().log(), (w / cw).abs().log()]
                )
                loss = loss + F.smooth_l1_loss(output, truth)
                shift += (output - truth)[:2].norm().item()
                scale += (output - truth)[2:].abs().mean().item()
                count += 1
    loss = 0.25 * loss / count
    of = [*tokens, *head.parameters()]
    torch.testing.assert_close(losses['loss_view_offset'], loss, atol=1e-10, rtol=1e-10)
    for ours, reference in zip(
        torch.autograd.grad(losses['loss_view_offset'], of), torch.autograd.grad(loss, of)
    ):
        torch.testing.assert_close(ours, reference, atol=1e-10, rtol=1e-10)
    assert losses['view_offset_err'].item() == pytest.approx(shift / count)
    assert losses['view_scale_err'].item() == pytest.approx(100 * math.expm1(scale / count))


@pytest.mark.parametrize(
    'options, key',
    [
        (dict(in_channels=0), 'in_channels'),
        (dict(hidden_channels=2.5), 'hidden_channels'),
        (dict(hidden_channels=10**9), 'hidden_channels'),
        (dict(in_channels=10**5), 'in_channels'),
        (dict(loss_weight=-1), 'loss_weight'),
        (dict(init_cfg=3), 'init_cfg'),
    ],
)
def test_bad_options_are_refused(options, key):
    with pytest.raises(UserError, match=f'^{key}'):
        ViewOffsetHead(**dict(in_channels=4) | options)


def test_one_view_has_nothing_to_be_compared_with():
    head = ViewOffsetHead(6)
    with pytest.raises(UserError, match='^ViewOffsetHead compares the views.*num_views'):
        head.loss(Views([PatchTokens(torch.randn(2, 4, 6), (2, 2))], boxes(2, 1)))


def test_what_it_predicts_is_where_the_views_are_put():
    given = boxes(3, 3)
    views = Views([PatchTokens(torch.randn(3, 4, 6), (2, 2)) for _ in range(3)], given)
    head = ViewOffsetHead(6)
    predicted = head.predict(views)
    assert torch.equal(predicted.boxes, given) and not predicted.offsets.requires_grad
    means = torch.stack([tokens.mean(1) for tokens, *_ in views.tokens], dim=1)
    expected = head(means) * (1 - torch.eye(3)).unsqueeze(-1)
    torch.testing.assert_close(predicted.offsets, expected.detach())
    # The box that has the predicted offsets, and the right one for the right offsets.
    for j in range(3):
        placed = predicted.to_boxes()[:, :, j].clone()
        placed[:, j] = given[:, j]
        torch.testing.assert_close(
            view_offsets(placed)[:, :, j], predicted.offsets[:, :, j], atol=1e-5, rtol=1e-5
        )
    right = predicted._replace(offsets=predicted.true_offsets()).to_boxes()
    centre, size = given.split(2, dim=-1)
    truth = torch.cat([centre, size.abs()], dim=-1).unsqueeze(2).expand_as(right)
    torch.testing.assert_close(right, truth, atol=1e-4, rtol=1e-5)
    with pytest.raises(UserError, match='^ViewOffsetHead compares the views'):
        head.predict(Views(views.tokens[:1], given[:, :1]))


# ------------------------------------------------------------------------------------------ hosts


def with_boxes(given=None):
    images, samples = MOCO.batch()
    for sample, box in zip(samples, boxes() if given is None else given):
        sample.set_metainfo(dict(view_boxes=box.numpy()))
    return images, samples


def trained(pos_head=None):
    """The stock losses and the gradients of two steps, heads left out."""
    model = MOCO.build(pos_head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(3)
    losses, gradients = [], []
    for _ in range(2):
        optimizer.zero_grad()
        total, log = model.parse_losses(model.loss(*with_boxes()))
        total.backward()
        losses.append(log['loss_view'] if pos_head else log['loss'])
        gradients.append(
            {n: p.grad for n, p in model.named_parameters() if not n.startswith('pos_head')}
        )
        optimizer.step()
    return losses, gradients


def test_weight_zero_trains_as_the_stock_algorithm():
    stock, ours = trained(), trained(VIEW | dict(loss_weight=0.0))
    assert all(map(torch.equal, stock[0], ours[0]))
    for of_stock, of_ours in zip(stock[1], ours[1]):
        assert of_stock.keys() == of_ours.keys()
        for name, gradient in of_stock.items():
            if gradient is None:
                assert of_ours[name] is None
            else:
                assert torch.equal(of_ours[name], gradient), name


def test_it_trains_the_encoder_beside_other_heads():
    model = MOCO.build([apl_head(), VIEW])
    stock = MOCO.build()
    assert set(model.state_dict()) - set(stock.state_dict()) == {
        *(f'pos_head.0.{name}' for name in PositionalLabelHead(EMBED_DIMS, 4).state_dict()),
        *(f'pos_head.1.fc{i}.{kind}' for i in (1, 2) for kind in ('weight', 'bias')),
    }
    losses = model.loss(*with_boxes())
    assert set(losses) == {
        *('loss_view', 'loss_apl', 'apl_acc'),
        *('loss_view_offset', 'view_offset_err', 'view_scale_err'),
    }
    losses['loss_view_offset'].backward()
    trained = {n.split('.')[0] for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {'backbone', 'pos_head'}
    # What it compares are the two views, in their order.
    images, samples = with_boxes()
    with torch.no_grad():
        tokens = [model.patch_tokens(view) for view in images]
        alone = model.pos_head[1].loss(Views(tokens, boxes()))
    torch.testing.assert_close(alone['loss_view_offset'], losses['loss_view_offset'].detach())
    assert set(model.position_losses(images[0])) == {'loss_apl', 'apl_acc'}
    assert set(model.predict_positions(tokens[0])) == {'apl'}
    predicted = model.eval().predict_views(images, samples)
    assert set(predicted) == {'view_offset'}
    assert torch.equal(predicted['view_offset'].boxes, boxes())
    assert predicted['view_offset'].offsets.shape == (4, 2, 2, 4)
    assert not predicted['view_offset'].offsets.requires_grad
    passes = []
    model.backbone.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    with pytest.raises(UserError, match='^predict_views got the images of 3 views.*boxes of 2'):
        model.predict_views([*images, images[0]], samples)
    assert passes == []
    model.predict_views(images, samples)
    assert passes == [False, False]


def test_evaluation_does_not_run_it():
    model = MOCO.build(VIEW).eval()
    assert set(model.loss(*MOCO.batch())) == {'loss_view'}


def test_data_without_boxes_are_refused():
    with pytest.raises(UserError, match='do not tell where the views lie.*RecordedMultiView'):
        MOCO.build(VIEW).loss(*MOCO.batch())


class OnePassSimCLR(ViewLabels, SimCLR):
    """Runs its backbone once, for the views of an image side by side."""


class ViewsOfSimCLR(OnePassSimCLR):
    def tokens_of_views(self, passes, num_views):
        ((tokens, grid_shape, indices),) = passes
        return [
            PatchTokens(view, grid_shape)
            for view in tokens.unflatten(0, (-1, num_views)).unbind(1)
        ]


def simclr(cls):
    cfg = mocov3()
    return cls(
        backbone=dict(type='VisionTransformer', **VIT),
        neck=cfg['neck'],
        head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.1),
        pos_head=VIEW,
    )


def test_an_algorithm_that_runs_all_views_at_once():
    with pytest.raises(UserError, match='backbone 1 times for 2 views.*tokens_of_views'):
        simclr(OnePassSimCLR).loss(*with_boxes())
    model = simclr(ViewsOfSimCLR)
    images, samples = with_boxes()
    losses = model.loss(images, samples)
    with torch.no_grad():
        tokens = [model.patch_tokens(view) for view in images]
        alone = model.pos_head.loss(Views(tokens, boxes()))
    torch.testing.assert_close(alone['loss_view_offset'], losses['loss_view_offset'].detach())


@pytest.mark.parametrize(
    'cfg',
    [
        classifier([apl_head(), VIEW]),
        ALGORITHMS['MAE'].cfg()
        | dict(type='poslabel_mm.PositionalLabelMAE', pos_head=[apl_head(), VIEW]),
    ],
    ids=['classifier', 'MAE'],
)
def test_a_model_of_one_view_does_not_take_it(cfg):
    with pytest.raises(UserError, match='^model.pos_head.1: ViewOffsetHead compares views'):
        build(cfg)


def test_a_head_that_does_not_fit_the_backbone_is_refused():
    with pytest.raises(UserError, match=r'^model.pos_head.in_channels=8 does not fit'):
        MOCO.build(VIEW | dict(in_channels=8))
    with pytest.raises(UserError, match='^model.pos_head.1: two position heads'):
        MOCO.build([VIEW, VIEW])


# ---------------------------------------------------------------------------------------- configs


def test_the_digits_configs_train_the_same_views():
    steps = {}
    for name in 'mocov3-vit-tiny_digits.py', 'mocov3-vit-tiny_view_digits.py':
        cfg = Config.fromfile(config_path(name))
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        np.random.seed(0)
        data = default_collate([dataset[i] for i in range(4)])
        torch.manual_seed(0)
        model = MMPRETRAIN_MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        model.init_weights()
        data = model.data_preprocessor(data, training=True)
        steps[name] = data['inputs'], model(**data, mode='loss')
    (stock_images, stock), (our_images, ours) = steps.values()
    assert all(map(torch.equal, stock_images, our_images))
    assert torch.equal(ours['loss_view'], stock['loss'])
    assert ours['loss_view_offset'].isfinite()


@pytest.mark.parametrize(
    'options, line',
    [
        ({'1.type': 'MultiView'}, '1.type=MultiView does not record .*RecordedMultiView'),
        ({'1.transforms.0.0.type': 'RandomResizedCrop'}, '1.transforms.0 has 0 RecordedRandomRes'),
        ({'1.num_views': [1]}, r'1.num_views=\[1\] is one view alone'),
        ({'2.meta_keys': []}, "2.meta_keys has no 'view_boxes'"),
    ],
)
def test_a_pipeline_that_records_no_views_is_refused_before_training(options, line):
    cfg = Config.fromfile(config_path('mocov3-vit-tiny_view_digits.py'))
    check_views(cfg)
    key = 'train_dataloader.dataset.pipeline.'
    cfg.merge_from_dict({key + name: value for name, value in options.items()})
    with pytest.raises(UserError, match='^' + re.escape(key) + line):
        check_views(cfg)
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset
    )
    with pytest.raises(UserError, match=r'^train_dataloader\.dataset\.dataset\.pipeline\.' + line):
        check_views(cfg)
    cfg.model.pos_head = dict(type='poslabel_mm.PositionalLabelHead')
    check_views(cfg)
