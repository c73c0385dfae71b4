"""Loss weights and widths of targets that change during training."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from models import apl_head, batch, build, classifier, tiny_vit
from tiny_run import make_config, make_images

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.head_schedules import check_head_schedules
from poslabel_mm.models import OffsetRegressionHead, PositionalLabelHead
from poslabel_mm.models.schedules import schedule
from poslabel_mm.tokens import PatchTokens

pytestmark = pytest.mark.computes

LINEAR = dict(type='linear', start=2.0, end=1.0)


def values(value, epochs, max_epochs=10):
    made = schedule('loss_weight', value, 0, 10)
    return [made.at(epoch, max_epochs) for epoch in epochs]


@pytest.mark.parametrize(
    'value, epochs, expected',
    [
        (0.5, [0, 5, 10], [0.5] * 3),
        (dict(type='constant', value=0.5), [0, 5, 10], [0.5] * 3),
        (LINEAR, [0, 2.5, 5, 10], [2, 1.75, 1.5, 1]),
        (LINEAR | dict(epochs=4), [0, 1, 4, 4.1, 10], [2, 1.75, 1, 1, 1]),
        (LINEAR | dict(begin=6), [0, 6, 8, 10], [2, 2, 1.5, 1]),
        (LINEAR | dict(begin=6, epochs=2), [0, 6, 7, 8, 9], [2, 2, 1.5, 1, 1]),
        (LINEAR | dict(begin=6, epochs=0), [0, 5.9, 6, 9], [2, 2, 1, 1]),
        (LINEAR | dict(begin=12), [0, 10], [2, 2]),
        (
            dict(type='cosine', start=0, end=1),
            [0, 2.5, 5, 10],
            [0, (1 - math.sqrt(0.5)) / 2, 0.5, 1],
        ),
        (dict(type='warmup', epochs=4, then=2.0), [0, 1, 4, 10], [0, 0.5, 2, 2]),
        (dict(type='warmup', epochs=0, then=2.0), [0, 1], [2, 2]),
        (dict(type='warmup', epochs=4, then=LINEAR), [0, 2, 5], [0, 0.9, 1.5]),
    ],
)
def test_values(value, epochs, expected):
    assert values(value, epochs) == pytest.approx(expected)


def test_the_ends_are_reached_exactly():
    for kind in 'linear', 'cosine':
        assert values(dict(type=kind, start=0.1, end=0, epochs=3), [0, 3, 7]) == [0.1, 0, 0]
    assert values(dict(type='warmup', epochs=3, then=0.1), [3, 4]) == [0.1, 0.1]


@pytest.mark.parametrize(
    'value, line',
    [
        (-1, '=-1 is refused: set it to a number from 0 to 10'),
        ({}, '={} is refused: set it to a dict with a type'),
        (
            dict(type='step'),
            ".type='step' is unknown; choose from ['constant', 'linear', 'cosine', 'warmup']",
        ),
        (dict(type=['linear']), ".type=['linear'] is unknown; choose from"),
        (LINEAR | dict(start=11), '.start=11 is refused: set it to a number from 0 to 10'),
        (LINEAR | dict(end='1'), ".end='1' is refused: set it to a number from 0 to 10"),
        (LINEAR | dict(epochs=-1), '.epochs=-1 is refused: set it to a number from 0 to 1e+06'),
        (LINEAR | dict(begin=None), '.begin=None is refused: set it to a number from 0 to 1e+06'),
        (
            LINEAR | dict(stop=3),
            ".stop is unknown; choose from ['start', 'end', 'begin', 'epochs']",
        ),
        (dict(type='linear', start=1), '.end is missing'),
        (dict(type='constant', value=math.nan), '.value=nan is refused'),
        (dict(type='warmup', epochs=1, then=[]), '.then=[] is refused'),
        (
            dict(type='warmup', epochs=1, then=LINEAR | dict(start=-1)),
            '.then.start=-1 is refused: set it to a number from 0 to 10',
        ),
    ],
)
def test_a_wrong_schedule(value, line):
    with pytest.raises(UserError) as error:
        values(value, [])
    assert str(error.value).startswith(f'loss_weight{line}')


def test_a_model_names_the_whole_key():
    with pytest.raises(UserError, match=r'^model\.pos_head\.loss_weight\.start=-1 is refused'):
        build(classifier(apl_head(loss_weight=LINEAR | dict(start=-1))))


def at(iteration, max_iters=12, max_epochs=4):
    hub = MessageHub.get_current_instance()
    for key, value in (('iter', iteration), ('max_iters', max_iters), ('max_epochs', max_epochs)):
        hub.update_info(key, value)


@pytest.mark.parametrize('compiled', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_head_has_the_weight_of_the_iteration(compiled):
    plain = OffsetRegressionHead(8, (2, 3), loss_weight=1)
    head = OffsetRegressionHead(8, (2, 3), loss_weight=LINEAR | dict(epochs=2))
    head.load_state_dict(plain.state_dict())
    patch_tokens = PatchTokens(torch.randn(2, 6, 8), (2, 3))
    expected = plain.loss(patch_tokens)['loss_offset']
    loss = torch.compile(head.loss, backend='aot_eager') if compiled else head.loss
    # Outside of a run, its beginning.
    torch.testing.assert_close(loss(patch_tokens)['loss_offset'], 2 * expected)
    for iteration, weight in ((0, 2), (1, 2 - 1 / 6), (3, 1.5), (6, 1), (11, 1)):
        at(iteration)
        torch.testing.assert_close(loss(patch_tokens)['loss_offset'], weight * expected)
    torch._dynamo.reset()


class Weights(Hook):
    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, *args, **kwargs):
        self.seen.append(runner.model.pos_head.loss_weight)


def test_a_run_tells_its_iteration(tmp_path):
    data = make_images(tmp_path / 'images')
    head = apl_head(loss_weight=dict(type='linear', start=0, end=1, begin=1))
    cfg = make_config(tmp_path, data, 'run')
    cfg.model.pos_head = head
    runner, weights = Runner.from_cfg(cfg), Weights()
    runner.register_hook(weights)
    runner.train()
    # Three epochs of three iterations.
    assert weights.seen == pytest.approx([0, 0, 0, 0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


def test_weight_zero_of_a_schedule_trains_as_the_stock_classifier():
    noisy = tiny_vit(drop_rate=0.2, drop_path_rate=0.2)
    head = apl_head(
        loss_weight=dict(type='linear', start=0, end=1, begin=2),
        target=dict(type='GaussianTarget', sigma=dict(type='cosine', start=2, end=0)),
        label_ratio=0.5,
    )
    results = []
    for model in (build(classifier(backbone=noisy)), build(classifier(head, backbone=noisy))):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        torch.manual_seed(3)
        losses = []
        for iteration in range(4):
            at(iteration)
            optimizer.zero_grad()
            out = model.loss(*batch())
            losses.append(out.get('loss_cls', out.get('loss')))
            model.parse_losses(out)[0].backward()
            optimizer.step()
        results.append((losses, model.backbone.state_dict()))
    assert all(map(torch.equal, results[0][0], results[1][0]))
    for name, value in results[0][1].items():
        assert torch.equal(results[1][1][name], value), name


def test_a_plain_number_is_as_it_was():
    head = PositionalLabelHead(8, (2, 3), loss_weight=0.3)
    assert head.loss_weight == 0.3 and isinstance(head.loss_weight, float)
    at(5)
    assert head.loss_weight == 0.3


EPOCHS = dict(by_epoch=True, max_epochs=10)
ITERATIONS = dict(by_epoch=False, max_iters=100)


@pytest.mark.parametrize(
    'head, train_cfg, line',
    [
        (dict(loss_weight=LINEAR | dict(begin=9, epochs=20)), EPOCHS, None),
        (dict(loss_weight=LINEAR | dict(begin=0)), ITERATIONS, None),
        (dict(loss_weight=0.5, target=None), ITERATIONS, None),
        (
            dict(loss_weight=LINEAR | dict(begin=10)),
            EPOCHS,
            r'^model\.pos_head\.1\.loss_weight\.begin=10 is never reached: the run has 10 epochs',
        ),
        (
            dict(target=dict(type='GaussianTarget', sigma=LINEAR | dict(epochs=5))),
            ITERATIONS,
            r'^model\.pos_head\.1\.target\.sigma\.epochs=5 counts epochs, but',
        ),
        (
            dict(loss_weight=dict(type='warmup', epochs=1, then=LINEAR)),
            ITERATIONS,
            r'^model\.pos_head\.1\.loss_weight\.epochs=1 counts epochs, but .*: take '
            "type='linear' or 'cosine', over the whole run, or set train_cfg.by_epoch=True",
        ),
        (dict(loss_weight=dict(type='warmup', epochs=9, then=LINEAR)), EPOCHS, None),
        *(
            (
                dict(loss_weight=dict(type='warmup', epochs=epochs, then=LINEAR)),
                EPOCHS,
                rf'^model\.pos_head\.1\.loss_weight\.epochs={epochs} warms up to the end: the run '
                'has 10 epochs',
            )
            for epochs in (10, 12.5)
        ),
    ],
)
def test_a_schedule_fits_into_the_run(head, train_cfg, line):
    cfg = Config(dict(model=dict(pos_head=[apl_head(), head]), train_cfg=train_cfg))
    if line is None:
        check_head_schedules(cfg)
    else:
        with pytest.raises(UserError, match=line):
            check_head_schedules(cfg)
