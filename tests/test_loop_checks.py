"""The checks that loops can be built, beside MMEngine's own building of them."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.loops import check_other_loop, check_train_loop


def built(train_cfg):
    """What MMEngine makes of it."""
    loader = DataLoader([1, 2, 3])
    runner = SimpleNamespace(visualizer=SimpleNamespace(), _train_dataloader=loader)
    return Runner.build_train_loop(runner, Config(dict(train_cfg=train_cfg)).train_cfg)


@pytest.mark.parametrize(
    'train_cfg, loop',
    [
        (dict(by_epoch=True, max_epochs=3, val_interval=10), EpochBasedTrainLoop),
        (dict(by_epoch=True, max_epochs=3.0, max_iters=None), EpochBasedTrainLoop),
        (dict(by_epoch=False, max_iters=10, max_epochs=None, val_interval=5), IterBasedTrainLoop),
        (dict(type='IterBasedTrainLoop', max_iters=10, max_epochs=None), IterBasedTrainLoop),
        (dict(type='mmengine.EpochBasedTrainLoop', max_epochs=3.0), EpochBasedTrainLoop),
        (dict(type=EpochBasedTrainLoop, max_epochs=3), EpochBasedTrainLoop),
        (dict(type=None, by_epoch=False, max_iters=10), IterBasedTrainLoop),
        (
            dict(by_epoch=True, max_epochs=3, dynamic_intervals=[(2, 1)], val_begin=2),
            EpochBasedTrainLoop,
        ),
    ],
)
def test_what_mmengine_builds_passes(train_cfg, loop):
    cfg = Config(dict(train_cfg=train_cfg))
    check_train_loop(cfg)
    assert None not in cfg.train_cfg.values()
    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.get('max_iters')
    assert type(length) is int
    assert type(built(cfg.train_cfg)) is loop


@pytest.mark.parametrize(
    'train_cfg, line',
    [
        *(
            (
                dict(loop, max_iters=25, max_epochs=40),
                'train_cfg.max_epochs=40 does not apply to a training loop that counts '
                'iterations; leave it out with --cfg-options train_cfg.max_epochs=None '
                'default_hooks.checkpoint.by_epoch=False default_hooks.checkpoint.interval=3',
            )
            for loop in (dict(by_epoch=False), dict(type='IterBasedTrainLoop'))
        ),
        (
            dict(by_epoch=False, max_epochs=40),
            'train_cfg.max_epochs=40 does not apply to a training loop that counts iterations; '
            'leave it out with --cfg-options train_cfg.max_epochs=None train_cfg.max_iters=N '
            'default_hooks.checkpoint.by_epoch=False default_hooks.checkpoint.interval=N',
        ),
        *(
            (
                dict(loop, max_iters=10, max_epochs=40),
                'train_cfg.max_iters=10 does not apply to a training loop that counts epochs; '
                'leave it out with --cfg-options train_cfg.max_iters=None',
            )
            for loop in (dict(by_epoch=True), dict(type=EpochBasedTrainLoop))
        ),
        *(
            (
                dict(loop, max_epochs=None),
                'the training loop counts epochs and has no length: set train_cfg.max_epochs',
            )
            for loop in (dict(by_epoch=True), dict(type='EpochBasedTrainLoop'))
        ),
        (
            dict(max_epochs=3),
            'train_cfg does not say what the training loop counts: set train_cfg.by_epoch=True '
            'and max_epochs, or train_cfg.by_epoch=False and max_iters',
        ),
        (
            dict(type='EpochBasedTrainLoop', by_epoch=False, max_epochs=300, max_iters=30),
            'train_cfg has type=EpochBasedTrainLoop and by_epoch=False, and each says what the '
            'training loop counts: leave one of them out, the type with --cfg-options '
            'train_cfg.type=None train_cfg.max_epochs=None '
            'default_hooks.checkpoint.by_epoch=False default_hooks.checkpoint.interval=3',
        ),
        (
            dict(type='EpochBasedTrainLoop', by_epoch=True, max_epochs=300),
            'train_cfg has type=EpochBasedTrainLoop and by_epoch=True, and each says what the '
            'training loop counts: leave one of them out, the type with --cfg-options '
            'train_cfg.type=None',
        ),
        *(
            (
                dict(by_epoch=True, max_epochs=length),
                f'train_cfg.max_epochs={length!r} is refused: set it to a whole number from 1',
            )
            for length in (1.5, 'ten')
        ),
        (
            dict(by_epoch=True, max_epochs=3, val_intervall=1),
            "train_cfg: EpochBasedTrainLoop takes no option 'val_intervall'; did you mean "
            'val_interval?',
        ),
    ],
)
def test_what_mmengine_cannot_build_is_one_line(train_cfg, line):
    with pytest.raises((TypeError, RuntimeError, KeyError, AssertionError, ValueError)):
        built(train_cfg)
    with pytest.raises(UserError) as error:
        check_train_loop(Config(dict(train_cfg=train_cfg)))
    assert str(error.value) == line


@pytest.mark.parametrize('length', [0, -1, 0.0, True, float('inf'), float('nan')])
def test_a_training_of_no_length_is_refused(length):
    """MMEngine would train nothing, or without end."""
    for train_cfg in (
        dict(by_epoch=True, max_epochs=length),
        dict(by_epoch=False, max_iters=length),
        dict(type='IterBasedTrainLoop', max_iters=length),
    ):
        with pytest.raises(
            UserError, match=r'^train_cfg\.max_\w+=.* is refused: set it to a whole number from 1$'
        ):
            check_train_loop(Config(dict(train_cfg=train_cfg)))


def test_a_hook_that_counts_iterations_is_not_advised_again():
    cfg = dict(train_cfg=dict(by_epoch=False, max_epochs=3, max_iters=30))
    cfg['default_hooks'] = dict(checkpoint=dict(by_epoch=False, interval=7))
    with pytest.raises(UserError, match=r'with --cfg-options train_cfg\.max_epochs=None$'):
        check_train_loop(Config(cfg))


def test_a_config_without_a_loop_is_one_line():
    with pytest.raises(UserError, match='^the config has no train_cfg: set train_cfg.by_epoch'):
        check_train_loop(Config(dict(train_cfg=None)))


def test_a_loop_of_a_type_of_ones_own_is_left_alone():
    cfg = Config(dict(train_cfg=dict(type='MyLoop', max_epochs=None, speed=3)))
    check_train_loop(cfg)
    assert cfg.train_cfg == dict(type='MyLoop', max_epochs=None, speed=3)


def test_options_of_validation_and_test_are_checked_too():
    cfg = Config(dict(val_cfg=dict(fp16=True), test_cfg=dict(fp15=True)))
    check_other_loop(cfg, 'val_cfg')
    with pytest.raises(UserError, match=r"^test_cfg: TestLoop takes no option 'fp15'; .* fp16\?$"):
        check_other_loop(cfg, 'test_cfg')
    cfg.test_cfg = dict(type='MyLoop', fp15=True)
    check_other_loop(cfg, 'test_cfg')
    cfg.test_cfg = None
    check_other_loop(cfg, 'test_cfg')
