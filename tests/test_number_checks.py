"""The check of whole numbers, beside what MMEngine and torch do with the same ones."""

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_run import make_config, make_images

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.numbers import check_numbers

LOADERS = 'train_dataloader', 'val_dataloader'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images'))


def config(tmp_path, data, **changes):
    cfg = make_config(tmp_path, data, 'work')
    cfg.val_cfg, cfg.val_evaluator = {}, cfg.test_evaluator
    cfg.val_dataloader = cfg.test_dataloader
    cfg.train_cfg.max_epochs = 2
    cfg.merge_from_dict(changes)
    return cfg


WRONG = {
    'train_cfg.val_interval': (0, -1, 1.5, True, 'a', None),
    'train_cfg.val_begin': (-1, 'a', None),
    'train_dataloader.batch_size': (0, 1.5, 'a', None),
    'val_dataloader.batch_size': (0,),
    'train_dataloader.num_workers': (-1, 1.5, 'a', None),
    'optim_wrapper.accumulative_counts': (0, -1, 1.5, 'a'),
    'default_hooks.logger.interval': (0, -1, 1.5, 'a'),
    'default_hooks.checkpoint.interval': (-2, 1.5, 'a', None),
    'default_hooks.checkpoint.max_keep_ckpts': (-2, 1.5, 'a', None),
}


@pytest.mark.parametrize(
    'key, value', [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_number_that_would_fail_later_is_one_line(tmp_path, data, key, value):
    cfg = config(tmp_path, data, **{key: value})
    with pytest.raises(UserError) as error:
        check_numbers(cfg, LOADERS, trains=True)
    start = f'{key}={value!r} is refused: set it to a whole number from '
    assert str(error.value).startswith(start)


@pytest.mark.parametrize('value', [0, None, 'a'])
def test_a_wrong_interval_would_end_a_run_after_its_first_epoch(tmp_path, data, value):
    """What the check is for: if MMEngine comes to refuse it by itself, the check may go."""
    cfg = config(tmp_path, data, **{'train_cfg.val_interval': value})
    with pytest.raises((ZeroDivisionError, TypeError)):
        Runner.from_cfg(cfg).train()
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()


@pytest.mark.parametrize(
    'value, line',
    [
        (7, '=7 is refused: set it to a list of tuples (from when, interval)'),
        ([[2, 1]], '=[[2, 1]] is refused: set it to a list of tuples (from when, interval)'),
        ([(2,)], '=[(2,)] is refused: set it to a list of tuples (from when, interval)'),
        ([(2, 1), (3, 0)], '.1.1=0 is refused: set it to a whole number from 1 on'),
        ([('a', 1)], ".0.0='a' is refused: set it to a whole number from 0 on"),
    ],
)
def test_intervals_that_change_are_looked_at(tmp_path, data, value, line):
    cfg = config(tmp_path, data)
    cfg.train_cfg.dynamic_intervals = value
    with pytest.raises(UserError) as error:
        check_numbers(cfg, LOADERS, trains=True)
    assert str(error.value) == f'train_cfg.dynamic_intervals{line}'


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'train_cfg.val_interval': 100, 'train_cfg.val_begin': 0},
        {'default_hooks.checkpoint.interval': -1, 'default_hooks.checkpoint.max_keep_ckpts': -1},
        {'default_hooks.checkpoint': None, 'default_hooks.logger': None},
        # Nothing reads them.
        {'val_cfg': None, 'train_cfg.val_interval': None},
        {'val_dataloader': None, 'val_cfg': None},
        {'train_cfg.type': 'MyLoop', 'train_cfg.val_interval': 0.5},
        {'test_dataloader.batch_size': 0},
    ],
)
def test_what_mmengine_takes_passes(tmp_path, data, changes):
    check_numbers(config(tmp_path, data, **changes), LOADERS, trains=True)


def test_a_test_is_checked_for_its_loader_alone(tmp_path, data):
    cfg = config(tmp_path, data, **{'train_cfg.val_interval': 0, 'test_dataloader.batch_size': 0})
    with pytest.raises(UserError, match='^test_dataloader.batch_size=0 is refused'):
        check_numbers(cfg, ('test_dataloader',), trains=False)
    check_numbers(Config(dict(test_dataloader=dict(batch_size=4))), ('test_dataloader',), False)
