"""A run that was stopped at any moment and resumed is the run that was not stopped."""
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from tiny_run import RANDOM, make_config, make_images

from poslabel_mm.compat import load_from_local

ITERATIONS = 3  # an epoch
EPOCHS = 3
VALIDATED = {
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
        cfg.merge_from_dict(VALIDATED)
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


def assert_same(path, expected_path, but=()):
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


VARIANTS = {
    'workers': {'train_dataloader.num_workers': 2},
    'persistent': {
        'train_dataloader.num_workers': 1,
        'train_dataloader.persistent_workers': True
    },
    'ema': {
        'custom_hooks': [
            dict(type='poslabel_mm.EpochSeedHook'),
            dict(type='EMAHook', momentum=0.1),
            dict(type='poslabel_mm.StopSignalHook')
        ]
    },
    'accumulation': {'optim_wrapper.accumulative_counts': 2},
    'bf16': {'optim_wrapper.type': 'poslabel_mm.CPUAmpOptimWrapper'},
    'clipped': {'optim_wrapper.clip_grad': dict(max_norm=0.5)},
}


@pytest.mark.parametrize('variant', VARIANTS)
def test_stopped_at_every_iteration(tmp_path, data, variant, capfd):
    options = VARIANTS[variant]
    whole = run(config(tmp_path, data, 'whole', **options))
    assert whole.end is None
    expected = tmp_path / 'whole'
    # One run that is stopped in every iteration, and resumed as often.
    cfg = config(tmp_path, data, 'stopped', **options)
    losses = []
    for stop in range(ITERATIONS * EPOCHS):
        # The weights that a run begins with, and anything else, must not matter.
        torch.manual_seed(stop)
        np.random.seed(stop)
        part = run(cfg, signal_at('after_train_iter', stop))
        losses += part.losses
        cfg.resume = True
        cfg.experiment_name = f'{cfg.experiment_name}_'
    part = run(cfg)
    assert part.end is None
    assert losses + part.losses == whole.losses
    assert files(tmp_path / 'stopped') == files(expected)
    for name in files(expected):
        assert_same(tmp_path / 'stopped' / name, expected / name)
    assert logged(tmp_path / 'stopped') == logged(expected)
