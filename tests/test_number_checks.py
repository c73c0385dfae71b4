"""The check of whole numbers in a config, and that training and tests make it."""

import sys

import pytest
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from tiny_run import make_config, make_images

from poslabel_mm.errors import UserError
from poslabel_mm.launch import tools as launch
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
    'train_cfg.val_interval': (0, -1, 1.5, float('inf'), True, 'a', None),
    'train_cfg.val_begin': (-1, 'a', None),
    'train_dataloader.batch_size': (0, 1.5, 'a', None),
    'val_dataloader.batch_size': (0,),
    'train_dataloader.num_workers': (-1, 1.5, 'a', None),
    'optim_wrapper.accumulative_counts': (0, -1, 1.5, 'a'),
    'default_hooks.logger.interval': (0, -1, 1.5, 'a'),
    'default_hooks.logger.interval_exp_name': (0, 'a'),
    'default_hooks.checkpoint.interval': (-2, 1.5, 'a', None),
    'default_hooks.checkpoint.max_keep_ckpts': (-2, 1.5, 'a', None),
    'default_hooks.checkpoint.save_begin': (-1, 'a'),
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


TUPLES = 'is refused: set it to a list of tuples (first epoch or iteration, interval)'


@pytest.mark.parametrize(
    'value, line',
    [
        (7, f'=7 {TUPLES}'),
        ([[2, 1]], f'=[[2, 1]] {TUPLES}'),
        ([(2,)], f'=[(2,)] {TUPLES}'),
        ([(2, 1), (3, 0)], '.1.1=0 is refused: set it to a whole number from 1 on'),
        ([('a', 1)], ".0.0='a' is refused: set it to a whole number from 0 on"),
        ([(3, 1), (2, 4)], '=[(3, 1), (2, 4)] is refused: list the intervals by when they begin'),
    ],
)
@pytest.mark.parametrize('validates', [True, False])
def test_intervals_that_change_are_looked_at(tmp_path, data, value, line, validates):
    cfg = config(tmp_path, data)
    cfg.train_cfg.dynamic_intervals = value
    if not validates:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    with pytest.raises(UserError) as error:
        check_numbers(cfg, LOADERS, trains=True)
    assert str(error.value) == f'train_cfg.dynamic_intervals{line}'


class MyHook(Hook):
    """Takes an interval of its own kind."""


class MyLogger(LoggerHook):
    """Is MMEngine's but for its name."""


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'train_cfg.val_interval': 100, 'train_cfg.val_begin': 0},
        {'train_cfg.dynamic_intervals': [(1, 2), (5, 1)]},
        {'default_hooks.checkpoint.interval': -1, 'default_hooks.checkpoint.max_keep_ckpts': -1},
        {'default_hooks.checkpoint': None, 'default_hooks.logger': None},
        # Nothing reads them.
        {'val_cfg': None, 'train_cfg.val_interval': None},
        {'val_dataloader': None, 'val_cfg': None},
        {'test_dataloader.batch_size': 0},
        # They are none of MMEngine's.
        {'train_cfg.type': 'MyLoop', 'train_cfg.val_interval': 0.5},
        {'default_hooks.logger': dict(type=MyHook, interval='often')},
        {
            'train_dataloader.batch_sampler': dict(type='MyBatches', size=4),
            'train_dataloader.batch_size': None,
        },
    ],
)
def test_what_is_right_and_what_is_not_known_passes(tmp_path, data, changes):
    check_numbers(config(tmp_path, data, **changes), LOADERS, trains=True)


def test_a_hook_of_a_class_below_a_stock_one_is_checked(tmp_path, data):
    cfg = config(tmp_path, data, **{'default_hooks.logger': dict(type=MyLogger, interval=0)})
    with pytest.raises(UserError, match='^default_hooks.logger.interval=0 is refused'):
        check_numbers(cfg, LOADERS, trains=True)


def test_a_whole_number_with_a_point_becomes_one(tmp_path, data):
    cfg = config(tmp_path, data, **{'train_cfg.val_interval': 2.0})
    check_numbers(cfg, LOADERS, trains=True)
    assert type(cfg.train_cfg.val_interval) is int and cfg.train_cfg.val_interval == 2


def test_a_test_is_not_checked_for_training(tmp_path, data):
    changes = {'train_cfg.val_interval': 0, 'train_dataloader.batch_size': 0}
    check_numbers(config(tmp_path, data, **changes), ('test_dataloader',), trains=False)


def test_the_tools_refuse_them_before_anything_is_made(tmp_path, data, monkeypatch, capsys):
    def line_of(tool, *argv):
        monkeypatch.setattr(sys, 'argv', [f'{tool.__name__}.py', *map(str, argv)])
        monkeypatch.setenv('LOCAL_RANK', '0')
        with pytest.raises(SystemExit) as left:
            tool()
        assert left.value.code == 1
        return capsys.readouterr().err.splitlines()[-1]

    path = tmp_path / 'config.py'
    config(tmp_path, data).dump(path)
    options = '--work-dir', tmp_path / 'work', '--cfg-options'
    line = line_of(launch.train, path, *options, 'train_cfg.val_interval=0')
    assert line.startswith('error: train_cfg.val_interval=0 is refused: ')
    line = line_of(launch.test, path, 'nowhere.pth', *options, 'default_hooks.logger.interval=0')
    assert line.startswith('error: default_hooks.logger.interval=0 is refused: ')
    assert not (tmp_path / 'work').exists()
