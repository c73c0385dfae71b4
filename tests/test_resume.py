"""A run is determined by its seed, and by nothing that a stop would lose."""
import re
import shutil

import pytest
import torch
from mmengine.runner import Runner
from tiny_run import RANDOM, make_config, make_images, train, weights

from poslabel_mm.engine import EpochSeedHook

EPOCHS = 3


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train')


def test_seed_gives_the_same_losses_twice(tmp_path, data):
    runs = [
        train(make_config(tmp_path, data, name, **RANDOM))
        for name in ('first', 'second')
    ]
    assert len(runs[0]) == 3 * EPOCHS
    assert runs[0] == runs[1]


@pytest.mark.parametrize('num_workers, seed', [(0, 7), (2, None)])
def test_resumed_run_is_the_run_that_never_stopped(tmp_path, data, num_workers,
                                                   seed):
    options = {
        **RANDOM, 'train_dataloader.num_workers': num_workers,
        'randomness.seed': seed
    }
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
    hook, = (h for h in runner._hooks if isinstance(h, EpochSeedHook))
    hook.before_train(runner)
    for epoch in range(2):
        runner.train_loop._epoch = epoch
        hook.before_train_epoch(runner)
        yield torch.cat([batch['inputs'] for batch in runner.train_dataloader])


def test_workers_do_not_repeat_their_augmentation(tmp_path, data):
    cfg = make_config(
        tmp_path, data, 'run', **RANDOM, **{
            'train_dataloader.num_workers': 1,
            'train_dataloader.sampler.shuffle': False
        })
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    first, second = _epoch_inputs(runner)
    assert not torch.equal(first, second)
    again, _ = _epoch_inputs(runner)
    assert torch.equal(first, again)


def test_persistent_workers_are_warned_of(tmp_path, data, caplog):
    cfg = make_config(
        tmp_path, data, 'run', **{
            'train_dataloader.num_workers': 1,
            'train_dataloader.persistent_workers': True,
            'log_level': 'WARNING'
        })
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.logger.addHandler(caplog.handler)
    EpochSeedHook().before_train(runner)
    assert re.search('persistent_workers=False', caplog.text)


def test_iteration_based_loop_is_warned_of_and_draws_anew(tmp_path, data,
                                                          caplog):
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
