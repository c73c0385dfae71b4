"""A run is determined by its seed, and by nothing that a stop would lose."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_run import RANDOM, make_config, make_images, train, weights

from poslabel_mm.engine import EpochSeedHook
from poslabel_mm.engine.hooks.resume_options_hook import _steps
from poslabel_mm.errors import UserError

EPOCHS = 3


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train')


@pytest.mark.computes
def test_seed_gives_the_same_losses_twice(tmp_path, data):
    runs = [train(make_config(tmp_path, data, name, **RANDOM)) for name in ('first', 'second')]
    assert len(runs[0]) == 3 * EPOCHS
    assert runs[0] == runs[1]


@pytest.mark.parametrize('num_workers, seed', [(0, 7), (2, None)])
@pytest.mark.computes
def test_resumed_run_is_the_run_that_never_stopped(tmp_path, data, num_workers, seed):
    options = {**RANDOM, 'train_dataloader.num_workers': num_workers, 'randomness.seed': seed}
    cfg = make_config(tmp_path, data, 'whole', **options)
    train(cfg)
    whole = weights(tmp_path / 'whole' / f'epoch_{EPOCHS}.pth')
    early = weights(tmp_path / 'whole' / 'epoch_1.pth')
    heads = [name for name in whole if name.startswith('pos_head.0.')]
    assert heads
    assert not any(torch.equal(whole[name], early[name]) for name in heads)

    for stopped_after in range(1, EPOCHS):
        work_dir = tmp_path / f'stopped_{stopped_after}'
        work_dir.mkdir()
        checkpoint = f'epoch_{stopped_after}.pth'
        shutil.copy(tmp_path / 'whole' / checkpoint, work_dir)
        (work_dir / 'last_checkpoint').write_text(str(work_dir / checkpoint))
        cfg.work_dir = str(work_dir)
        cfg.resume = True
        # Whatever was drawn before must not matter.
        torch.manual_seed(stopped_after)
        losses = train(cfg)
        assert len(losses) == 3 * (EPOCHS - stopped_after)
        resumed = weights(work_dir / f'epoch_{EPOCHS}.pth')
        for name, value in whole.items():
            assert torch.equal(value, resumed[name]), (stopped_after, name)


def _epoch_inputs(runner):
    """What the loader yields in each of two epochs, sampler unchanged."""
    (hook,) = (h for h in runner._hooks if isinstance(h, EpochSeedHook))
    hook.before_train(runner)
    for epoch in range(2):
        runner.train_loop._epoch = epoch
        hook.before_train_epoch(runner)
        yield torch.cat([batch['inputs'] for batch in runner.train_dataloader])


def test_workers_do_not_repeat_their_augmentation(tmp_path, data):
    cfg = make_config(
        tmp_path,
        data,
        'run',
        **RANDOM,
        **{'train_dataloader.num_workers': 1, 'train_dataloader.sampler.shuffle': False},
    )
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    first, second = _epoch_inputs(runner)
    assert not torch.equal(first, second)
    again, _ = _epoch_inputs(runner)
    assert torch.equal(first, again)


def test_persistent_workers_are_warned_of(tmp_path, data, caplog):
    cfg = make_config(
        tmp_path,
        data,
        'run',
        **{
            'train_dataloader.num_workers': 1,
            'train_dataloader.persistent_workers': True,
            'log_level': 'WARNING',
        },
    )
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.logger.addHandler(caplog.handler)
    EpochSeedHook().before_train(runner)
    assert re.search('persistent_workers=False', caplog.text)


@pytest.mark.computes
def test_iteration_based_loop_is_warned_of_and_draws_anew(tmp_path, data, caplog):
    cfg = make_config(tmp_path, data, 'run', log_level='WARNING')
    cfg.train_cfg = dict(by_epoch=False, max_iters=9)
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.logger.addHandler(caplog.handler)
    hook = EpochSeedHook()
    hook.before_train(runner)
    assert re.search('not epoch-based', caplog.text)
    drawn = []
    for runner.train_loop._iter in (0, 6, 6):  # resumed twice after the sixth
        hook.before_train_epoch(runner)
        drawn.append(torch.rand(1).item())
    assert drawn[0] != drawn[1] == drawn[2]


# ------------------------------------------------- the config's options and schedule


class Rates(Hook):
    """Learning rates and weight decays of every iteration, of the first group."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, *args, **kwargs):
        group = runner.optim_wrapper.param_groups[0]
        self.seen.append((group['lr'], group['weight_decay'], group['betas'][0]))


SCHEDULE = [
    dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, eta_min=1e-6),
    dict(type='LinearParamScheduler', param_name='weight_decay', start_factor=0.5, by_epoch=False),
    dict(type='LinearMomentum', start_factor=0.9, end=2),
]


def _runner(tmp_path, data, name, resume=None, param_scheduler=None, **options):
    """A runner, ready to train, and what records its rates."""
    cfg = make_config(tmp_path, data, name, log_level='WARNING', **options)
    cfg.param_scheduler = param_scheduler or cfg.param_scheduler
    if param_scheduler == 'none':
        cfg.param_scheduler = None
    if resume is not None:
        cfg.resume, cfg.load_from = True, str(resume)
    runner = Runner.from_cfg(cfg)
    rates = Rates()
    runner.register_hook(rates)
    return runner, rates


def _rates(*args, **kwargs):
    runner, rates = _runner(*args, **kwargs)
    runner.train()
    return rates.seen


# Four groups alike and others that are not, as MMEngine makes them.
GROUPS = {
    'optim_wrapper.optimizer.weight_decay': 0.05,
    'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
}


@pytest.fixture(scope='module')
def scheduled(tmp_path_factory, data):
    """The checkpoint after the second of three epochs."""
    folder = tmp_path_factory.mktemp('scheduled')
    _rates(folder, data, 'run', param_scheduler=SCHEDULE, **GROUPS)
    return folder / 'run' / 'epoch_2.pth'


@pytest.mark.parametrize(
    'changed',
    [
        {'optim_wrapper.optimizer.lr': 1e-5},
        {'train_cfg.max_epochs': 6},
        {'optim_wrapper.optimizer.weight_decay': 0.3},
        {'train_dataloader.batch_size': 2},
        {'train_cfg.max_epochs': 4, 'param_scheduler': SCHEDULE[:1]},
        {'param_scheduler': 'none'},
        {'auto_scale_lr': dict(base_batch_size=1, enable=True)},
    ],
    ids=lambda options: '+'.join(options),
)
def test_a_resumed_run_has_the_schedule_of_its_config(tmp_path, data, scheduled, changed):
    """From where it goes on, that of a run which had it from its start."""
    options = {'param_scheduler': SCHEDULE, **GROUPS, **changed}
    fresh = _rates(tmp_path, data, 'fresh', **options)
    resumed = _rates(tmp_path, data, 'resumed', scheduled, **options)
    epochs = options.get('train_cfg.max_epochs', EPOCHS)
    assert len(resumed) == len(fresh) * (epochs - 2) // epochs
    assert resumed == [pytest.approx(rates) for rates in fresh[-len(resumed) :]]


def test_a_schedule_is_stepped_only_where_it_changes_anything():
    warm_up = SimpleNamespace(by_epoch=False, begin=0, end=3)
    cosine = SimpleNamespace(by_epoch=True, begin=1, end=10**9)
    late = SimpleNamespace(by_epoch=False, begin=10**6, end=10**9)
    steps = list(_steps([cosine, late, warm_up], 3 * 10**5 + 2, 3, 10**5))
    assert steps == [(warm_up, 1), (warm_up, 2), (cosine, 1), (cosine, 2), (cosine, 3)]


def test_an_option_without_a_schedule_is_the_configs(tmp_path, data, caplog):
    _rates(tmp_path, data, 'before')
    before = tmp_path / 'before' / 'epoch_2.pth'
    options = {
        'optim_wrapper.optimizer.weight_decay': 0.3,
        'optim_wrapper.optimizer.betas': (0.8, 0.99),
    }
    fresh = _rates(tmp_path, data, 'fresh', **options)
    runner, rates = _runner(tmp_path, data, 'resumed', before, **options)
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert rates.seen == fresh[-3:]
    assert 'weight_decay 0.3 (was 0.01)' in caplog.text
    assert 'betas (0.8, 0.99) (was (0.9, 0.999))' in caplog.text
    assert 'the schedule was rebuilt' not in caplog.text


def test_what_agrees_is_resumed_without_a_word(tmp_path, data, scheduled, caplog):
    options = {'param_scheduler': SCHEDULE, **GROUPS}
    runner, rates = _runner(tmp_path, data, 'resumed', scheduled, **options)
    runner.logger.addHandler(caplog.handler)
    runner.train()
    saved = torch.load(scheduled, weights_only=True)['optimizer']['param_groups'][0]
    assert rates.seen[0] == (saved['lr'], saved['weight_decay'], saved['betas'][0])
    assert 'resumed with' not in caplog.text


def test_a_schedule_that_follows_the_validation_is_not_made_anew(tmp_path, data):
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss')
    _rates(tmp_path, data, 'before', param_scheduler=plateau)
    before = tmp_path / 'before' / 'epoch_2.pth'
    assert _rates(tmp_path, data, 'same', before, param_scheduler=plateau)
    with pytest.raises(UserError, match='depends on validation results'):
        _rates(
            tmp_path,
            data,
            'other',
            before,
            param_scheduler=plateau,
            **{'optim_wrapper.optimizer.lr': 1e-5},
        )
