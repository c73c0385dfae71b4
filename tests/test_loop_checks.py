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
    assert type(built(cfg.train_cfg)) is loop


@pytest.mark.parametrize(
    'train_cfg, line',
    [
        (
            dict(by_epoch=False, max_iters=10, max_epochs=40),
            'train_cfg.max_epochs=40 is no length of a training loop that counts iterations '
            '(train_cfg.by_epoch=False): --cfg-options train_cfg.max_epochs=None',
        ),
        (
            dict(by_epoch=False, max_epochs=40),
            'train_cfg.max_epochs=40 is no length of a training loop that counts iterations '
            '(train_cfg.by_epoch=False): --cfg-options train_cfg.max_epochs=None '
            'train_cfg.max_iters=N',
        ),
        (
            dict(by_epoch=True, max_iters=10, max_epochs=40),
            'train_cfg.max_iters=10 is no length of a training loop that counts epochs '
            '(train_cfg.by_epoch=True): --cfg-options train_cfg.max_iters=None',
        ),
        (
            dict(by_epoch=True, max_epochs=None),
            'the training loop counts epochs (train_cfg.by_epoch=True) and has no length: set '
            'train_cfg.max_epochs',
        ),
        (
            dict(max_epochs=3),
            'train_cfg does not say what the training loop counts: set train_cfg.by_epoch=True '
            'and max_epochs, or train_cfg.by_epoch=False and max_iters',
        ),
        (
            dict(type='IterBasedTrainLoop', by_epoch=False, max_iters=3),
            "train_cfg has both type='IterBasedTrainLoop' and by_epoch=False, which say what the "
            'training loop is: leave one of them out',
        ),
        *(
            (
                dict(by_epoch=True, max_epochs=length),
                f'train_cfg.max_epochs={length!r} is refused: set it to a whole number',
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
