"""A run that was stopped at any moment and resumed is the run that was not stopped."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import selfsup_models
import torch
from forked import join_by_file, run_ranks
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset
from test_resume import SCHEDULE, Rates
from tiny_run import RANDOM, make_config, make_images
from torch.utils.data import DataLoader

from poslabel_mm.engine import AtomicCheckpointHook, EpochSeedHook
from poslabel_mm.engine.hooks import stop_signal_hook
from poslabel_mm.engine.hooks.atomic_checkpoint_hook import OUTDATED
from poslabel_mm.engine.resumable_train_loop import POSITION, VALIDATED
from poslabel_mm.engine.seeding import SeededIndices
from poslabel_mm.engine.worker_signals import protect_workers
from poslabel_mm.stack.safe_loading import load_from_local

ITERATIONS = 3  # an epoch
EPOCHS = 3
WITH_VALIDATION = {
    'val_cfg': {},
    'default_hooks.checkpoint.save_best': 'auto',
    'default_hooks.checkpoint.max_keep_ckpts': 1,
}
CLOCK = ('time', 'eta', 'experiment_name', 'cfg')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train')


class Killed(BaseException):
    """Ends a run as `kill -9` does: no hook and no handler sees it."""


class Do(Hook):
    """Does something at one stage of a run, before or after all other hooks."""

    def __init__(self, stage, iteration, action, priority='LOWEST'):
        self.priority = priority

        def act(runner, *args, **kwargs):
            if runner.iter == iteration:
                action()

        setattr(self, stage, act)
        self.stage = stage

    def get_triggered_stages(self):
        return [self.stage]


def kill_at(stage, iteration):

    def kill():
        raise Killed

    return Do(stage, iteration, kill)


def signal_at(stage, iteration, signum=signal.SIGTERM):
    return Do(stage, iteration, lambda: os.kill(os.getpid(), signum), 'VERY_HIGH')


def config(tmp_path, data, name, validates=True, **options):
    cfg = make_config(tmp_path, data, name, **RANDOM)
    if validates:
        cfg.merge_from_dict(WITH_VALIDATION)
        cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.merge_from_dict(options)
    return cfg


def run(cfg, *hooks):
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    losses = []
    step = runner.model.train_step

    def train_step(*args, **kwargs):
        log_vars = step(*args, **kwargs)
        losses.append(log_vars['loss'].item())
        return log_vars

    runner.model.train_step = train_step
    runner.losses = losses
    try:
        runner.train()
    except (Killed, SystemExit) as end:
        runner.end = end
    else:
        runner.end = None
    return runner


def state(path):
    """All that a checkpoint holds but for what the clock and the run's name make."""
    content = load_from_local(str(path), 'cpu')
    flat = {}

    def flatten(prefix, value):
        if isinstance(value, HistoryBuffer):
            flat[prefix] = [np.asarray(x) for x in value.data]
        elif isinstance(value, dict):
            for key, inner in value.items():
                if not any(word in str(key).split('/')[-1] for word in CLOCK):
                    flatten(f'{prefix}.{key}', inner)
        elif isinstance(value, (list, tuple)):
            for i, inner in enumerate(value):
                flatten(f'{prefix}.{i}', inner)
        else:
            flat[prefix] = value

    flatten('', content)
    return flat


def assert_same(path, expected_path):
    actual, expected = state(path), state(expected_path)
    folders = [str(Path(p).parent) for p in (path, expected_path)]
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        got = actual[key]
        if isinstance(value, torch.Tensor):
            assert torch.equal(got, value), key
        elif isinstance(value, list):
            assert all(map(np.array_equal, got, value)), key
        elif isinstance(value, str):
            assert got.replace(folders[0], folders[1]) == value, key
        else:
            assert got == value, key


def logged(folder):
    """What was logged, by kind and step, without times."""
    entries = []
    for log in sorted(Path(folder).glob('*/vis_data/scalars.json'), key=os.path.getmtime):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            entries.append({k: v for k, v in entry.items() if 'time' not in k})
    return entries


def files(folder):
    return {path.name for path in Path(folder).iterdir() if path.suffix == '.pth'}


def resumed_until_the_end(cfg, *stops):
    """Train with one hook a run that ends it, and then without; all losses."""
    losses = []
    for number, stop in enumerate([*stops, None]):
        # What was drawn before, and the weights that a run begins with, must not matter.
        torch.manual_seed(number)
        np.random.seed(number)
        part = run(cfg, *filter(None, [stop]))
        assert (part.end is None) == (stop is None)
        losses += part.losses
        cfg.resume = True
        # MMEngine takes runs of one name that begin in one second for one.
        cfg.experiment_name += '_'
    return losses


def assert_same_run(folder, expected):
    assert files(folder) == files(expected)
    for name in files(expected):
        assert_same(folder / name, expected / name)
    assert logged(folder) == logged(expected)


VARIANTS = {
    'workers, EMA, clipping': {
        'train_dataloader.num_workers': 2,
        'custom_hooks': [
            dict(type='poslabel_mm.EpochSeedHook'),
            dict(type='EMAHook', momentum=0.1),
            dict(type='poslabel_mm.StopSignalHook'),
        ],
        'optim_wrapper.clip_grad': dict(max_norm=0.5),
    },
    # An epoch ends between two updates, and the run with a remainder.
    'accumulation, CutMix': {
        'optim_wrapper.accumulative_counts': 2,
        'model.train_cfg': dict(augments=[dict(type='CutMix', alpha=1.0)]),
    },
    'bf16, last batch dropped': {
        'optim_wrapper.type': 'poslabel_mm.CPUAmpOptimWrapper',
        'train_dataloader.batch_size': 3,
        'train_dataloader.drop_last': True,
    },
    'schedules, drawn labels and pairs': {
        'model.pos_head': [
            selfsup_models.apl_head(
                loss_weight=dict(
                    type='warmup', epochs=1.5, then=dict(type='cosine', start=1, end=0)
                ),
                target=dict(
                    type='GaussianTarget', sigma=dict(type='linear', start=1, end=0, epochs=2)
                ),
                label_ratio=0.5,
            ),
            selfsup_models.coord_head(label_ratio=0.25),
            selfsup_models.offset_head(
                pairs_per_token=3, loss_weight=dict(type='linear', start=0, end=1, begin=0.5)
            ),
        ],
    },
}


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.computes
def test_stopped_and_resumed(tmp_path, data, variant):
    options = VARIANTS[variant]
    whole = run(config(tmp_path, data, 'whole', **options))
    last = whole.max_iters // EPOCHS - 1
    losses = resumed_until_the_end(
        config(tmp_path, data, 'stopped', **options),
        signal_at('after_train_iter', 0),
        signal_at('after_train_iter', last),  # leaves its validation to the next run
        signal_at('before_train_epoch', 2 * last + 2),  # after a validation
        signal_at('after_train_iter', 2 * last + 3),
    )
    assert losses == whole.losses
    assert_same_run(tmp_path / 'stopped', tmp_path / 'whole')


@pytest.mark.computes
def test_stopped_mae(tmp_path, data):
    """Masks, and pairs of the tokens that they leave."""

    def mae_config(name):
        cfg = config(tmp_path, data, name, False, **{'train_cfg.max_epochs': 1})
        cfg.model = selfsup_models.mae(
            dict(mask_ratio=0.5),
            type='poslabel_mm.PositionalLabelMAE',
            pos_head=selfsup_models.rpl_head(pairs_per_token=3),
        )
        cfg.data_preprocessor = dict(
            type='SelfSupDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3
        )
        return cfg

    whole = run(mae_config('whole'))
    losses = resumed_until_the_end(mae_config('stopped'), signal_at('after_train_iter', 0))
    assert losses == whole.losses
    assert_same_run(tmp_path / 'stopped', tmp_path / 'whole')


@pytest.fixture
def always_better(monkeypatch):
    """Every validation is the best one so far."""
    rules = dict(greater=lambda new, old: True)
    monkeypatch.setattr(AtomicCheckpointHook, 'rule_map', rules)


@pytest.mark.computes
def test_validation_that_was_killed_is_made_up(tmp_path, data, always_better):
    whole = run(config(tmp_path, data, 'whole'))
    scores = [
        entry['accuracy/top1'] for entry in logged(tmp_path / 'whole') if 'accuracy/top1' in entry
    ]
    assert len(scores) == EPOCHS
    losses = resumed_until_the_end(
        config(tmp_path, data, 'killed'),
        kill_at('after_val_iter', ITERATIONS),
        kill_at('before_val', 2 * ITERATIONS),
        kill_at('after_val_iter', EPOCHS * ITERATIONS),
    )
    assert losses == whole.losses
    assert_same_run(tmp_path / 'killed', tmp_path / 'whole')


@pytest.mark.parametrize(
    'outdated, validates',
    [
        ('epoch_1.pth', True),
        ('best_accuracy_top1_epoch_1.pth', True),
        ('epoch_3_iter_2.pth', False),  # by the last checkpoint of all
    ],
)
@pytest.mark.computes
def test_what_a_killed_run_was_about_to_remove(tmp_path, data, always_better, outdated, validates):
    options = {'default_hooks.checkpoint.mid_epoch_interval': 2}
    run(config(tmp_path, data, 'whole', validates, **options))
    remove = LocalBackend.remove

    def kill_before(self, path):
        if Path(path).name == outdated:
            raise Killed
        remove(self, path)

    cfg = config(tmp_path, data, 'killed', validates, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalBackend, 'remove', kill_before)
        assert isinstance(run(cfg).end, Killed)
    assert (tmp_path / 'killed' / outdated).exists()
    cfg.resume = True
    cfg.experiment_name += '_'
    assert run(cfg).end is None
    assert_same_run(tmp_path / 'killed', tmp_path / 'whole')


@pytest.mark.computes
def test_kill_costs_at_most_the_interval(tmp_path, data):
    whole = run(config(tmp_path, data, 'whole', False))
    cfg = config(
        tmp_path, data, 'killed', False, **{'default_hooks.checkpoint.mid_epoch_interval': 2}
    )
    before = run(cfg, kill_at('after_train_iter', 4)).losses
    assert files(tmp_path / 'killed') == {'epoch_1.pth', 'epoch_2_iter_1.pth'}
    cfg.resume = True
    after = run(cfg).losses
    assert before == whole.losses[:5] and after == whole.losses[4:]
    assert files(tmp_path / 'killed') == files(tmp_path / 'whole')
    assert_same(tmp_path / 'killed' / 'epoch_3.pth', tmp_path / 'whole' / 'epoch_3.pth')


def test_interval_where_epochs_are_rarely_saved(tmp_path, data):
    cfg = config(
        tmp_path,
        data,
        'run',
        False,
        **{
            'default_hooks.checkpoint.interval': 5,
            'default_hooks.checkpoint.mid_epoch_interval': ITERATIONS,
        },
    )
    run(cfg, kill_at('before_train_epoch', ITERATIONS))
    assert files(tmp_path / 'run') == {'epoch_2_iter_0.pth'}
    cfg.resume = True
    assert len(run(cfg).losses) == 2 * ITERATIONS
    assert files(tmp_path / 'run') == {'epoch_3.pth'}


def test_what_was_seen_is_not_loaded(tmp_path, data, monkeypatch):
    cfg = config(tmp_path, data, 'run', False, **{'train_cfg.max_epochs': 1})
    run(cfg, signal_at('after_train_iter', 1))
    loaded = []
    load = CustomDataset.__getitem__
    monkeypatch.setattr(
        CustomDataset,
        '__getitem__',
        lambda self, index: (loaded.append(index), load(self, index))[1],
    )
    cfg.resume = True
    run(cfg)
    assert len(loaded) == 4  # the last batch


# ------------------------------------------------------------- two processes


def _two_processes(rank, tmp_path, data):
    join_by_file(rank, tmp_path / 'store')

    def distributed(name):
        # Three batches an epoch for each: epochs end between two updates.
        folder = tmp_path / f'rank_{rank}'
        folder.mkdir(exist_ok=True)
        cfg = config(
            folder,
            data,
            name,
            **{
                'work_dir': str(tmp_path / name),
                'train_dataloader.batch_size': 2,
                'optim_wrapper.accumulative_counts': 2,
                'model_wrapper_cfg': dict(type='MMDistributedDataParallel', device_ids=None),
                'launcher': 'pytorch',
            },
        )
        return cfg

    whole = run(distributed('whole'))
    stops = [
        ((0,), 'after_train_iter', 0),
        ((1,), 'after_train_iter', ITERATIONS - 1),
        ((0, 1), 'before_val', 2 * ITERATIONS),
        ((1,), 'after_train_iter', 2 * ITERATIONS),
    ]
    losses = resumed_until_the_end(
        distributed('stopped'),
        # In training one process is told, and all end.
        *(
            signal_at(*when) if rank in told else Do('before_run', -1, None)
            for told, *when in stops
        ),
    )
    assert losses == whole.losses
    torch.distributed.barrier()
    if rank == 0:
        assert_same_run(tmp_path / 'stopped', tmp_path / 'whole')


def _in_process(target, *args):
    torch.set_num_threads(1)
    try:
        target(*args)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    finally:
        sys.stderr.flush()
    os._exit(0)


@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
@pytest.mark.computes
def test_two_processes_stopped_and_resumed(tmp_path, data):
    assert run_ranks(_two_processes, tmp_path, data) == [0, 0]


# ------------------------------------------------------------------ the stop


def test_stop_saves_beside_the_epochs(tmp_path, data, capfd):
    cfg = config(tmp_path, data, 'run', **{'default_hooks.checkpoint.max_keep_ckpts': 2})
    stopped = run(cfg, signal_at('after_train_iter', 2 * ITERATIONS + 1))
    assert stopped.end.code == 143 and len(stopped.losses) == 2 * ITERATIONS + 2
    last = tmp_path / 'run' / 'epoch_3_iter_2.pth'
    kept = {name for name in files(tmp_path / 'run') if not name.startswith('best')}
    assert kept == {'epoch_1.pth', 'epoch_2.pth', last.name}
    (said,) = capfd.readouterr().err.strip().splitlines()
    assert said.startswith(
        f'stopped by SIGTERM: saved at iteration 2 of epoch 3 in {last}; to resume: '
    )


def test_stop_on_a_full_disk_names_the_last_checkpoint(tmp_path, data, capfd, monkeypatch):

    def full(*args):
        raise OSError(28, 'No space left on device')

    def fill_and_stop():
        monkeypatch.setattr(os, 'replace', full)
        os.kill(os.getpid(), signal.SIGTERM)

    cfg = config(tmp_path, data, 'run', False)
    stopped = run(cfg, Do('after_train_iter', ITERATIONS + 1, fill_and_stop, 'VERY_HIGH'))
    assert stopped.end.code == 143
    (said,) = capfd.readouterr().err.strip().splitlines()
    assert 'epoch_2_iter_2.pth (No space left on device)' in said
    assert (
        f'the last checkpoint is {tmp_path}/run/epoch_1.pth; the iterations after it will be '
        'repeated; to resume: '
    ) in said
    monkeypatch.undo()
    cfg.resume = True
    assert len(run(cfg).losses) == 2 * ITERATIONS


def test_stop_in_validation(tmp_path, data, capfd):
    seen = []
    count = Do('after_val_iter', ITERATIONS, lambda: seen.append(1))
    # The epoch is saved: at once. Not saved: after the validation.
    for name, interval, batches, moment in [
        ('saved', 1, 1, 'epoch_1.pth'),
        ('not saved', 5, 3, 'epoch_2_iter_0.pth'),
    ]:
        seen.clear()
        cfg = config(
            tmp_path,
            data,
            name,
            **{
                'default_hooks.checkpoint.interval': interval,
                'default_hooks.checkpoint.save_best': None,
            },
        )
        count.priority = 'VERY_HIGH'
        stopped = run(cfg, count, signal_at('before_val', ITERATIONS))
        assert stopped.end.code == 143 and len(seen) == batches
        assert files(tmp_path / name) == {moment}
        assert f'saved at the end of epoch 1 in {tmp_path}/{name}/{moment}' in (
            capfd.readouterr().err
        )


def _stopped_with_its_group(tmp_path, data, train_cfg):
    os.setsid()
    cfg = config(
        tmp_path,
        data,
        'run',
        **{
            'train_dataloader.num_workers': 2,
            'train_dataloader.persistent_workers': True,
            'val_dataloader': dict(num_workers=1, persistent_workers=True),
            'default_hooks.checkpoint.by_epoch': train_cfg['by_epoch'],
            'param_scheduler': None,
        },
    )
    cfg.train_cfg = train_cfg
    runner = Runner.from_cfg(cfg)

    def wait():
        (tmp_path / 'pid').write_text(str(os.getpid()))
        while stop_signal_hook._received.signum is None:
            time.sleep(0.01)
        workers = multiprocessing.active_children()
        assert len(workers) == 3  # of training, and of the validation that has been
        for worker in workers:
            worker.join(0.2)
            assert worker.is_alive()

    runner.register_hook(Do('after_train_iter', ITERATIONS, wait, 'VERY_HIGH'))
    try:
        runner.train()
    except SystemExit as end:
        assert end.code == 143
    assert stop_signal_hook._received.saved is not None


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='who sent a signal is not told')
@pytest.mark.parametrize(
    'train_cfg, saved',
    [
        (dict(by_epoch=True, max_epochs=3), 'epoch_2_iter_1.pth'),
        (dict(by_epoch=False, max_iters=9, val_interval=ITERATIONS), 'iter_4.pth'),
    ],
    ids=['epochs', 'iterations'],
)
@pytest.mark.computes
def test_workers_leave_a_stop_of_all_processes_to_training(tmp_path, data, train_cfg, saved):
    """As `scancel`, systemd and `kill -- -PGID` send it."""
    process = multiprocessing.get_context('fork').Process(
        target=_in_process, args=(_stopped_with_its_group, tmp_path, data, train_cfg)
    )
    process.start()
    while not (tmp_path / 'pid').is_file():
        assert process.is_alive()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 0
    assert saved in files(tmp_path / 'run')


class Stuck:
    """A dataset that hangs, and says in a file that it does."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.path.touch()
        time.sleep(600)


@pytest.fixture
def fork_hook():
    hook = SimpleNamespace(start_thread=False)

    def after_fork():
        if hook.start_thread:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

    os.register_at_fork(after_in_child=after_fork)
    yield hook
    hook.start_thread = False


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='who sent a signal is not told')
@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.computes
def test_a_protected_worker_that_hangs_can_be_ended_by_its_parent(tmp_path, threads, fork_hook):
    # As torch may do where it computes with several threads.
    fork_hook.start_thread = threads == 2
    loader = DataLoader(Stuck(tmp_path / 'started'), num_workers=1)
    protect_workers(loader, stop_signal_hook.SIGNALS)
    batches = iter(loader)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    (worker,) = batches._workers
    while not (tmp_path / 'started').exists():
        time.sleep(0.01)
    for name in 'TERM', 'INT', 'USR1':
        subprocess.run(['sh', '-c', f'kill -s {name} {worker.pid}'], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


# --------------------------------------------------- other runs and checkpoints


@pytest.mark.computes
def test_mmengines_own_hook_by_iteration_is_resumed_in_mid_epoch(tmp_path, data, capfd):
    options = {
        'train_cfg.max_epochs': 2,
        'default_hooks.checkpoint': dict(
            _delete_=True, type='CheckpointHook', by_epoch=False, interval=2
        ),
    }
    whole = run(config(tmp_path, data, 'whole', False, **options))
    cfg = config(tmp_path, data, 'stopped', False, **options)
    stopped = run(cfg, signal_at('after_train_iter', 4))
    # It saves when it is its turn.
    said = capfd.readouterr().err
    assert f'the last checkpoint is {tmp_path}/stopped/iter_4.pth; the iterations after it' in said
    cfg.resume = True
    resumed = run(cfg)
    assert stopped.losses == whole.losses[:5] and resumed.losses == whole.losses[4:]


@pytest.mark.parametrize('by_epoch', [False, True])
def test_stop_in_an_iteration_based_loop(tmp_path, data, capfd, by_epoch):
    """Also where the checkpoint hook counts epochs, as the shipped configs' does."""
    cfg = config(
        tmp_path,
        data,
        'run',
        False,
        **{
            'log_level': 'WARNING',
            'default_hooks.checkpoint.by_epoch': by_epoch,
            'default_hooks.checkpoint.interval': 100,
            'param_scheduler': None,
        },
    )
    cfg.train_cfg = dict(by_epoch=False, max_iters=7)
    assert run(cfg, signal_at('after_train_iter', 1)).end.code == 143
    assert files(tmp_path / 'run') == {'iter_2.pth'}
    assert 'saved at iteration 2 in' in capfd.readouterr().err
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert ('set default_hooks.checkpoint.by_epoch=False and ' in log.read_text()) == by_epoch
    # It stays until another one is there, which takes its place.
    cfg.resume = True
    assert run(cfg, signal_at('after_train_iter', 4)).end.code == 143
    assert files(tmp_path / 'run') == {'iter_5.pth'}
    shutil.copy(tmp_path / 'run/iter_5.pth', tmp_path / 'run/iter_2.pth')  # as one killed before
    assert len(run(cfg).losses) == 2
    assert files(tmp_path / 'run') == {'epoch_1.pth' if by_epoch else 'iter_7.pth'}


def test_the_checkpoint_of_a_stop_is_not_counted(tmp_path, data):
    """Where all are kept, and where some are, those that are due are."""
    for keep, kept in (-1, {2, 4, 6, 7}), (2, {6, 7}):
        cfg = config(tmp_path, data, f'keep_{keep}', False, param_scheduler=None)
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2, max_keep_ckpts=keep)
        cfg.train_cfg = dict(by_epoch=False, max_iters=7)
        assert run(cfg, signal_at('after_train_iter', 4)).end.code == 143
        assert files(tmp_path / f'keep_{keep}') == {f'iter_{i}.pth' for i in (2, 4, 5)}
        cfg.resume = True
        run(cfg)
        assert files(tmp_path / f'keep_{keep}') == {f'iter_{i}.pth' for i in kept}


def test_checkpoint_without_a_position_is_resumed_at_the_epoch(tmp_path, data):
    """As earlier versions of this project saved it."""
    cfg = config(tmp_path, data, 'run', False, **{'train_cfg.max_epochs': 1})
    run(cfg)
    path = tmp_path / 'run' / 'epoch_1.pth'
    content = load_from_local(str(path), 'cpu')
    hub = content['message_hub']
    for key in POSITION, VALIDATED, OUTDATED:
        hub['runtime_info'].pop(key, None)
        hub['resumed_keys'].pop(key, None)
    torch.save(content, path)
    cfg.resume = True
    cfg.train_cfg.max_epochs = 2
    assert len(run(cfg).losses) == ITERATIONS


def test_other_batch_size_goes_on_at_the_same_part_of_the_epoch(tmp_path, data, caplog):
    cfg = config(tmp_path, data, 'run', False, log_level='WARNING')
    run(cfg, signal_at('after_train_iter', 0))
    cfg.resume = True
    cfg.train_cfg.max_epochs = 1
    cfg.train_dataloader.batch_size = 2
    runner = Runner.from_cfg(cfg)
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert runner.iter == 2 + 4  # a third of the epoch is done
    assert 'an epoch has 6 iterations now and had 3' in caplog.text


BY_ITERATION = [dict(type='CosineAnnealingLR', T_max=18, end=18, by_epoch=False)]


@pytest.mark.parametrize(
    'stop, resumed_at, schedule', [(3, 8, SCHEDULE), (5, 12, SCHEDULE), (3, 8, BY_ITERATION)]
)
def test_other_batch_size_has_the_schedule_of_that_part(
    tmp_path, data, stop, resumed_at, schedule
):
    """In mid-epoch and at the end of the second epoch, of 3 and then of 6 iterations."""

    def rates_of(name, *stops, **options):
        cfg = config(tmp_path, data, name, False, log_level='WARNING', **options)
        cfg.param_scheduler = schedule
        cfg.resume = (tmp_path / name).exists()
        rates = Rates()
        return run(cfg, rates, *stops), rates.seen

    # Of 18 iterations the last two are an update of their own.
    smaller = {'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 4}
    _, fresh = rates_of('fresh', **smaller)
    rates_of('run', signal_at('after_train_iter', stop))
    resumed, rates = rates_of('run', **smaller)
    assert rates == [pytest.approx(rate) for rate in fresh[resumed_at:]]
    wrapper = resumed.optim_wrapper
    assert wrapper._inner_count == wrapper._max_counts == resumed.iter == 18


# ------------------------------------------------------------------- samples


def _samples(tmp_path, data, name, **options):
    """Inputs of two epochs, by epoch and image."""
    cfg = config(tmp_path, data, name, False, **options)
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    EpochSeedHook().before_run(runner)
    samples = []
    for epoch in range(2):
        runner.train_loop._epoch = epoch
        torch.manual_seed(len(name))
        runner.train_dataloader.sampler.set_epoch(epoch)
        for batch in runner.train_loop._batches_from(0):
            for image, sample in zip(batch['inputs'], batch['data_samples']):
                samples.append((epoch, sample.img_path, image))
    return sorted(samples, key=lambda sample: sample[:2])


@pytest.mark.computes
def test_samples_depend_on_epoch_and_index_alone(tmp_path, data):
    collate = {'train_dataloader.collate_fn': dict(type='pseudo_collate')}
    expected = _samples(tmp_path, data, 'here', **collate)
    epochs = [[image for epoch, _, image in expected if epoch == e] for e in range(2)]
    assert not all(map(torch.equal, *epochs))
    for options in [
        {'train_dataloader.num_workers': 2},
        {'train_dataloader.num_workers': 1, 'train_dataloader.persistent_workers': True},
        {'train_dataloader.batch_size': 5},
        {'train_dataloader.sampler.shuffle': False},
    ]:
        samples = _samples(tmp_path, data, 'there', **collate, **options)
        assert [s[:2] for s in samples] == [s[:2] for s in expected]
        assert all(torch.equal(a[2], b[2]) for a, b in zip(samples, expected)), options


def test_repeated_index_is_augmented_anew():
    indices = SeededIndices([[3, 3], [3]], batched=True)
    indices.entropy = 0, 0, 0
    seeds = [seed for batch in indices for index, seed in batch]
    assert len(set(seeds)) == 3
    indices.skipped = 1
    assert [seed for batch in indices for index, seed in batch] == seeds[2:]


def test_any_index_is_counted():
    indices = SeededIndices([3, 'a', np.int64(3), 'a', -1, 70, 3], batched=False)
    indices.entropy = 0, 1, 0
    counted = '3 0', 'a 0', '3 1', 'a 1', '-1 0', '70 0', '3 2'
    assert [seed for _, seed in indices] == [f'sample 0 1 0 {text}' for text in counted]


def test_indices_of_a_large_dataset_are_counted_in_little_memory():
    indices = SeededIndices(range(200_000), batched=False)
    tracemalloc.start()
    try:
        for _ in indices:
            pass
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()
