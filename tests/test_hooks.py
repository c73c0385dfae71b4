"""What the hooks save, refuse to save and leave behind."""

import multiprocessing
import os
import re
import shlex
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_run import Recorder, make_config, make_images, train, weights

from poslabel_mm.engine import (
    AtomicCheckpointHook,
    CPUAmpOptimWrapper,
    NonFiniteLossHook,
    StopSignalHook,
    write_atomically,
)
from poslabel_mm.engine.hooks import partial_gradients, stop_signal_hook
from poslabel_mm.errors import UserError

ITERATIONS = 3  # per epoch


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train')


class At(Hook):
    """Does something after one iteration, counted from 0."""

    def __init__(self, iteration, action):
        self.iteration = iteration
        self.action = action

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.iteration:
            self.action(runner)


def _train_with(cfg, iteration, action):
    runner = Runner.from_cfg(cfg)
    runner.register_hook(At(iteration, action), priority='VERY_HIGH')
    recorder = Recorder(runner)
    try:
        runner.train()
    finally:
        runner.losses = recorder.losses
    return runner


def _checkpoints(tmp_path):
    names = {path.name for path in (tmp_path / 'run').iterdir()}
    return {name for name in names if 'epoch' in name or 'tmp' in name}


# ------------------------------------------------------------- atomic writes


def _full_disk(*args, **kwargs):
    raise OSError(28, 'No space left on device')


@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.usefixtures('flushed_to_disk')
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / 'a.pth'
    write_atomically(b'old', path)
    monkeypatch.setattr(os, call, _full_disk)
    with pytest.raises(UserError, match=r'a\.pth \(No space left'):
        write_atomically(b'new', path)
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('max_keep_ckpts', [-1, 1])
@pytest.mark.usefixtures('flushed_to_disk')
def test_failed_checkpoint_costs_no_earlier_one(tmp_path, data, monkeypatch, max_keep_ckpts):
    cfg = make_config(
        tmp_path, data, 'run', **{'default_hooks.checkpoint.max_keep_ckpts': max_keep_ckpts}
    )
    with pytest.raises(UserError, match=r'epoch_2\.pth'):
        _train_with(cfg, ITERATIONS, lambda runner: monkeypatch.setattr(os, 'replace', _full_disk))
    assert _checkpoints(tmp_path) == {'epoch_1.pth'}
    assert weights(tmp_path / 'run' / 'epoch_1.pth')
    pointer = tmp_path / 'run' / 'last_checkpoint'
    assert pointer.read_text() == str(tmp_path / 'run' / 'epoch_1.pth')


@pytest.mark.usefixtures('flushed_to_disk')
def test_failed_checkpoint_leaves_nothing_to_the_next(tmp_path, monkeypatch):
    hook = AtomicCheckpointHook()
    hook.out_dir = str(tmp_path)
    monkeypatch.setattr(partial_gradients, 'are_pending', lambda runner: True)
    monkeypatch.setattr(partial_gradients, 'gather', lambda runner: [{}])
    with pytest.raises(OSError):
        hook._write(SimpleNamespace(save_checkpoint=_full_disk), 'epoch_1.pth', dict(iter=3))
    checkpoint = dict(optimizer={}, meta=dict(iter=4))
    hook.before_save_checkpoint(None, checkpoint)
    assert checkpoint == dict(optimizer={}, meta=dict(iter=4))


def test_last_checkpoints_are_kept(tmp_path, data):
    train(make_config(tmp_path, data, 'run', **{'default_hooks.checkpoint.max_keep_ckpts': 1}))
    assert _checkpoints(tmp_path) == {'epoch_3.pth'}


def test_outdated_checkpoint_that_is_a_folder_is_removed(tmp_path, data):
    def to_folder(runner):
        path = tmp_path / 'run' / 'epoch_1.pth'
        path.unlink()
        path.mkdir()
        (path / 'shard').touch()

    cfg = make_config(tmp_path, data, 'run', **{'default_hooks.checkpoint.max_keep_ckpts': 1})
    _train_with(cfg, ITERATIONS, to_folder)
    assert _checkpoints(tmp_path) == {'epoch_3.pth'}


def test_checkpoint_that_is_written_anew_is_kept(tmp_path, data):
    runner = Runner.from_cfg(make_config(tmp_path, data, 'run'))
    # Of a run that went back to its start.
    runner.message_hub.update_info('keep_ckpt_ids', [1, 2, 3])
    runner.train()
    assert _checkpoints(tmp_path) == {f'epoch_{i}.pth' for i in (1, 2, 3)}


def _validating(tmp_path, data):
    """A runner that is ready to validate, and its checkpoint hook."""
    cfg = make_config(
        tmp_path,
        data,
        'run',
        **{
            'default_hooks.checkpoint.save_best': 'accuracy/top1',
            'default_hooks.checkpoint.rule': 'greater',
        },
    )
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = None
    (hook,) = (h for h in runner._hooks if hasattr(h, 'save_best'))
    hook.before_train(runner)
    return runner, hook


def test_best_checkpoint_of_one_epoch_is_replaced_in_place(tmp_path, data):
    runner, hook = _validating(tmp_path, data)
    hook.after_val_epoch(runner, {'accuracy/top1': 10.0})
    with torch.no_grad():
        runner.model.backbone.cls_token.fill_(3.0)
    hook.after_val_epoch(runner, {'accuracy/top1': 20.0})
    assert _checkpoints(tmp_path) == {'best_accuracy_top1_epoch_0.pth'}
    assert weights(hook.best_ckpt_path)['backbone.cls_token'].eq(3.0).all()


def test_best_checkpoint_is_replaced_only_by_a_better_one(tmp_path, data, monkeypatch):
    runner, hook = _validating(tmp_path, data)
    hook.after_val_epoch(runner, {'accuracy/top1': 10.0})
    assert _checkpoints(tmp_path) == {'best_accuracy_top1_epoch_0.pth'}
    runner.train_loop._epoch = 1
    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', _full_disk)
        with pytest.raises(UserError):
            hook.after_val_epoch(runner, {'accuracy/top1': 20.0})
    assert _checkpoints(tmp_path) == {'best_accuracy_top1_epoch_0.pth'}
    hook.best_ckpt_path = str(tmp_path / 'run' / 'best_accuracy_top1_epoch_0.pth')
    hook.after_val_epoch(runner, {'accuracy/top1': 30.0})
    assert _checkpoints(tmp_path) == {'best_accuracy_top1_epoch_1.pth'}


# ---------------------------------------------------------- non-finite losses


def _poison(runner):
    with torch.no_grad():
        next(runner.model.parameters()).fill_(float('nan'))


@pytest.mark.parametrize(
    'iteration, message',
    [
        (ITERATIONS, r'loss_apl, loss_rpl became NaN or infinite at iteration 5 \(epoch 2\)'),
        # After the last loss of the epoch, right before it is saved.
        (2 * ITERATIONS - 1, 'weights backbone.cls_token became NaN'),
    ],
)
def test_nan_stops_before_it_is_saved(tmp_path, data, iteration, message):
    cfg = make_config(tmp_path, data, 'run')
    with pytest.raises(UserError, match=message) as caught:
        _train_with(cfg, iteration, _poison)
    assert str(tmp_path / 'run' / 'epoch_1.pth') in str(caught.value)
    assert '\n' not in str(caught.value)
    assert _checkpoints(tmp_path) == {'epoch_1.pth'}


@pytest.mark.parametrize('average', ['before', 'after'])
def test_nan_weights_behind_their_average_are_not_saved(tmp_path, data, average):
    """EMAHook puts the average where the weights were, whichever hook comes first."""
    cfg = make_config(tmp_path, data, 'run')
    # Updated once in a hundred iterations: it stays finite.
    ema = dict(type='EMAHook', interval=100)
    cfg.custom_hooks = (
        [ema] * (average == 'before') + cfg.custom_hooks + [ema] * (average == 'after')
    )
    with pytest.raises(UserError, match='the weights backbone.cls_token became NaN'):
        _train_with(cfg, 2 * ITERATIONS - 1, _poison)
    assert _checkpoints(tmp_path) == {'epoch_1.pth'}


def _poison_optimizer(runner):
    state = next(iter(runner.optim_wrapper.optimizer.state.values()))
    state['exp_avg_sq'].fill_(float('inf'))


def _poison_buffer(runner):
    runner.model.head.running_var.fill_(float('nan'))


@pytest.mark.parametrize(
    'poison, message',
    [
        (_poison_optimizer, r'the optimizer state state\.0\.exp_avg_sq became'),
        (_poison_buffer, r'the weights head\.running_var became'),
    ],
)
@pytest.mark.computes
def test_all_that_is_saved_is_finite(tmp_path, data, poison, message):
    runner = Runner.from_cfg(make_config(tmp_path, data, 'run'))
    runner.model.head.register_buffer('running_var', torch.ones(2))
    # On purpose, as in a mask of attention.
    runner.model.head.register_buffer('mask', torch.tensor([0.0, -torch.inf]))
    runner.register_hook(At(2 * ITERATIONS - 1, poison), priority='VERY_HIGH')
    with pytest.raises(UserError, match=message):
        runner.train()
    assert _checkpoints(tmp_path) == {'epoch_1.pth'}


def test_the_last_good_checkpoint_is_good(tmp_path, data):
    def poison(runner):
        path = tmp_path / 'run' / 'epoch_2.pth'
        content = torch.load(path, weights_only=True)
        content['state_dict']['backbone.cls_token'].fill_(float('nan'))
        torch.save(content, path)
        _poison(runner)

    cfg = make_config(tmp_path, data, 'run')
    with pytest.raises(UserError) as caught:
        _train_with(cfg, 2 * ITERATIONS, poison)
    good = tmp_path / 'run' / 'epoch_1.pth'
    assert f'The last good checkpoint is {good};' in str(caught.value)
    assert f'--resume {good} --cfg-options' in str(caught.value)


def test_without_a_good_checkpoint_it_says_so(tmp_path, data):
    cfg = make_config(tmp_path, data, 'run')
    with pytest.raises(UserError, match='No checkpoint had been saved'):
        _train_with(cfg, 0, _poison)
    work_dir = tmp_path / 'run'
    (work_dir / 'epoch_1.pth').write_bytes(b'')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    with pytest.raises(
        UserError, match='There is no checkpoint to resume from.*another --work-dir'
    ):
        _train_with(cfg, 0, _poison)


@pytest.mark.parametrize(
    'typed, advised',
    [
        (
            'python train.py "a b.py" --resume',
            'python train.py "a b.py" --resume --cfg-options optim_wrapper.optimizer.lr=0.001',
        ),
        (
            'train.py c.py --cfg-options optim_wrapper.optimizer.lr=0.01 a=1 --resume',
            'train.py c.py --cfg-options optim_wrapper.optimizer.lr=0.001 a=1 --resume',
        ),
        (
            'python tools/reproduce.py paper.yml',
            'the same training command with --resume '
            '--cfg-options optim_wrapper.optimizer.lr=0.001',
        ),
    ],
)
def test_nan_advises_what_can_be_typed(tmp_path, data, monkeypatch, typed, advised):
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', typed)
    cfg = make_config(tmp_path, data, 'run')
    with pytest.raises(UserError) as caught:
        _train_with(cfg, 0, _poison)
    said = re.search(
        'learning rate: (.*); or with optim_wrapper.clip_grad.max_norm=1.0$', str(caught.value)
    )
    assert said[1] == advised
    assert shlex.split(said[1])


@pytest.mark.computes
def test_overflows_that_a_loss_scaler_skips_are_no_end(tmp_path):
    buffer = SimpleNamespace(current=lambda: float('inf'))
    runner = SimpleNamespace(
        iter=0,
        epoch=0,
        work_dir=str(tmp_path),
        cfg=dict(),
        optim_wrapper=SimpleNamespace(loss_scaler=None),
        message_hub=SimpleNamespace(log_scalars={'train/loss': buffer}),
    )
    hook = NonFiniteLossHook()
    for runner.iter in range(20):
        hook.after_train_iter(runner, 0, outputs=dict(loss=None))
    runner.iter = 20
    with pytest.raises(UserError, match='at iteration 1 '):
        hook.after_train_iter(runner, 0, outputs=dict(loss=None))


# -------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    'signum, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_signal_ends_the_run_after_the_iteration(
    tmp_path, data, capfd, monkeypatch, signum, status
):
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', 'train it --resume')
    before = signal.getsignal(signum)
    runner = Runner.from_cfg(make_config(tmp_path, data, 'run'))
    runner.register_hook(
        At(ITERATIONS, lambda _: os.kill(os.getpid(), signum)), priority='VERY_HIGH'
    )
    recorder = Recorder(runner)
    with pytest.raises(SystemExit) as left:
        runner.train()
    assert left.value.code == status
    assert signal.getsignal(signum) is before
    assert len(recorder.losses) == ITERATIONS + 1
    assert _checkpoints(tmp_path) == {'epoch_1.pth', 'epoch_2_iter_1.pth'}
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and signum.name in said[0]
    assert str(tmp_path / 'run' / 'epoch_2_iter_1.pth') in said[0]
    assert said[0].endswith('train it --resume')


def test_signal_in_the_last_iteration_lets_the_epoch_be_saved(tmp_path, data, capfd):
    cfg = make_config(tmp_path, data, 'run')
    with pytest.raises(SystemExit):
        _train_with(cfg, ITERATIONS - 1, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert _checkpoints(tmp_path) == {'epoch_1.pth'}
    assert 'epoch_1.pth' in capfd.readouterr().err


@pytest.mark.parametrize('signum, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_after_a_training_that_failed_is_for_others(tmp_path, data, signum, status):
    """As a notebook's: an interrupt of the next cell."""
    taken = []
    previous = signal.signal(signum, lambda *args: taken.append(args))
    try:
        handler = signal.getsignal(signum)
        for _ in range(2):  # the second finds what the first has left
            with pytest.raises(ZeroDivisionError):
                _train_with(make_config(tmp_path, data, 'run'), 1, lambda _: 1 / 0)
            assert signal.getsignal(signum) is not handler
        os.kill(os.getpid(), signum)
        assert len(taken) == 1 and stop_signal_hook._received.signum is None
        assert signal.getsignal(signum) is handler
        with pytest.raises(SystemExit) as left:  # in training it is taken again
            _train_with(
                make_config(tmp_path, data, 'next'),
                1,
                lambda _: os.kill(os.getpid(), signum),
            )
        assert left.value.code == status and len(taken) == 1
        assert signal.getsignal(signum) is handler
    finally:
        signal.signal(signum, previous)


def _wait_for(pipe, signals):
    for _ in range(signals):
        pipe.send('waiting')
        if pipe.poll(60):
            pipe.recv()


def _exit_code_of_a_terminated_child(signals=1):
    """Fork here, send SIGTERM, and only then let the process end by itself, with 0."""
    fork = multiprocessing.get_context('fork')
    ours, theirs = fork.Pipe()
    child = fork.Process(target=_wait_for, args=(theirs, signals))
    child.start()
    try:
        for _ in range(signals):
            assert ours.poll(10)  # Python drops a signal that comes before the fork is complete
            ours.recv()
            child.terminate()
            ours.send('sent')
        child.join(10)
        return child.exitcode
    finally:
        child.kill()
        child.join()


def test_process_forked_after_a_training_that_failed_can_be_terminated(tmp_path, data):
    previous = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(ZeroDivisionError):
            _train_with(make_config(tmp_path, data, 'run'), 1, lambda _: 1 / 0)
        assert _exit_code_of_a_terminated_child() == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_process_forked_in_training_ignores_signals(tmp_path, data, monkeypatch):
    """As a worker of a loader that the hook does not know."""
    # The second signal would end a process that trains.
    monkeypatch.setattr(stop_signal_hook, 'SAME_SIGNAL_SECONDS', 0.0)
    codes = []
    _train_with(
        make_config(tmp_path, data, 'run'),
        1,
        lambda _: codes.append(_exit_code_of_a_terminated_child(signals=2)),
    )
    assert codes == [0]


def test_handler_not_installed_from_python_becomes_the_default(monkeypatch):
    installed = []
    # Which returns None, as for a handler that Python does not know.
    monkeypatch.setattr(signal, 'signal', lambda signum, handler: installed.append(handler))
    received = stop_signal_hook._Received()
    received.install()
    received.restore()
    count = len(stop_signal_hook.SIGNALS)
    assert installed == [received.handle] * count + [signal.SIG_DFL] * count


def test_second_signal_kills(monkeypatch):
    received = stop_signal_hook._Received()
    killed = []
    monkeypatch.setattr(os, 'kill', lambda *args: killed.append(args))
    monkeypatch.setattr(signal, 'signal', lambda *args: None)
    clock = iter([100.0, 100.2, 102.0])
    monkeypatch.setattr(stop_signal_hook.time, 'monotonic', lambda: next(clock))
    received.handle(signal.SIGTERM, None)
    received.handle(signal.SIGTERM, None)  # the same one, passed on
    assert not killed
    received.handle(signal.SIGTERM, None)
    assert killed == [(os.getpid(), signal.SIGTERM)]


def test_the_signal_that_another_process_was_sent_first_does_not_kill(monkeypatch):
    received = stop_signal_hook._Received()
    killed = []
    monkeypatch.setattr(stop_signal_hook, '_received', received)
    monkeypatch.setattr(
        stop_signal_hook, 'all_reduce', lambda told, op: told.fill_(int(signal.SIGTERM))
    )
    monkeypatch.setattr(os, 'kill', lambda *args: killed.append(args))
    clock = iter([100.0, 100.2])
    monkeypatch.setattr(stop_signal_hook.time, 'monotonic', lambda: next(clock))
    assert StopSignalHook()._agreed() and received.signum == signal.SIGTERM
    received.handle(signal.SIGTERM, None)
    assert not killed


def test_first_process_to_leave_a_validation_says_so(tmp_path, monkeypatch, capfd):
    """A launcher then signals the others again, the main process perhaps among them."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed.distributed_c10d, '_get_default_store', lambda: store)
    monkeypatch.setattr(StopSignalHook, '_resumes_in_mid_epoch', lambda *args: True)
    runner = SimpleNamespace(iter=3, epoch=1, train_loop=SimpleNamespace(position=0))
    for rank in 1, 0:
        monkeypatch.setattr(stop_signal_hook, 'is_main_process', lambda rank=rank: rank == 0)
        received = stop_signal_hook._Received()
        monkeypatch.setattr(stop_signal_hook, '_received', received)
        received.forget(str(tmp_path))
        received.record(signal.SIGTERM)
        hook = StopSignalHook()
        hook._has_signals = True
        hook._checkpoints = SimpleNamespace(has_saved=lambda iterations: True)
        with pytest.raises(SystemExit) as left:
            hook.after_val_iter(runner, 0)
        assert left.value.code == 143
        told = capfd.readouterr().err
        assert told.startswith('stopped by SIGTERM: ') if rank == 1 else told == ''


def test_training_in_another_thread_installs_no_handler(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    failures = []

    def run():
        try:
            StopSignalHook().before_train(SimpleNamespace(work_dir=tmp_path))
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures and signal.getsignal(signal.SIGTERM) is before


# ------------------------------------------------------------ mixed precision


@pytest.mark.computes
def test_cpu_amp_computes_in_bfloat16_and_steps_in_float32(tmp_path, data):
    # Steps so small that no loss differs by anything but its own rounding.
    options = {'optim_wrapper.optimizer.lr': 1e-5}
    plain = train(make_config(tmp_path, data, 'plain', **options))
    runner = Runner.from_cfg(
        make_config(
            tmp_path,
            data,
            'amp',
            **options,
            **{'optim_wrapper.type': 'poslabel_mm.CPUAmpOptimWrapper'},
        )
    )
    recorder = Recorder(runner)
    seen = []
    runner.model.backbone.layers[0].ffn.register_forward_hook(
        lambda module, args, output: seen.append(torch.is_autocast_enabled('cpu'))
    )
    runner.train()
    assert isinstance(runner.optim_wrapper, CPUAmpOptimWrapper)
    assert all(seen) and len(seen) == len(recorder.losses)
    assert recorder.losses != plain
    # bfloat16 has 8 bits; the difference is 0.002.
    assert recorder.losses == pytest.approx(plain, abs=0.02)
    assert all(p.dtype == torch.float32 for p in runner.model.parameters())
