"""Every test runs with a fixed seed, MMPretrain's scope and one thread.

`OMP_NUM_THREADS` sets another number of threads, in the processes too that
tests start.
"""

import functools
import gc
import logging
import os
import random
import tempfile
from types import SimpleNamespace

import poslabel_mm  # noqa: F401  (it mends what is imported below)

# isort: split
import signal

import numpy as np
import pytest
import torch
from memory_folder import memory_folder
from mmengine.dataset import base_dataset
from mmengine.device import utils as device_utils
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import loops
from mmengine.visualization import Visualizer

# MMEngine prints every parameter that it initialises.
MMLogger.get_instance('mmengine').setLevel(logging.WARNING)


@pytest.fixture(scope='session', autouse=True)
def read_metafiles_once():
    """For every `mmpretrain::` base MMEngine reads all of its 85: 0.3 s."""
    from mmengine.config import utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        yield


# On more, tests that run side by side take the cores from one another.
THREADS = int(os.environ.setdefault('OMP_NUM_THREADS', '1'))


@pytest.fixture(scope='session', autouse=True)
def train_on_the_cpu():
    """A GPU's sums differ from run to run, so the tests leave it alone; test_gpu.py uses it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_utils, 'DEVICE', 'cpu')
        patch.setenv('CUDA_VISIBLE_DEVICES', '')  # for the processes that tests start
        yield


@pytest.fixture(scope='session', autouse=True)
def leave_garbage_alone():
    """Every dataset that MMEngine makes collects garbage, 0.1 s among all that was imported."""
    base_dataset.gc = SimpleNamespace(collect=lambda: None)
    gc.collect()
    gc.freeze()


FSYNC = os.fsync


@pytest.fixture(scope='session', autouse=True)
def wait_for_no_disk(tmp_path_factory):
    """Checkpoints are flushed to it; MMEngine copies every config that it reads to a folder."""
    os.fsync = lambda number: None
    tmp_path_factory.getbasetemp()  # chosen before: the files of the tests stay on the disk
    with tempfile.TemporaryDirectory(dir=memory_folder(), ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        yield
        tempfile.tempdir = None


@pytest.fixture
def flushed_to_disk(monkeypatch):
    """For tests of how files are written."""
    monkeypatch.setattr(os, 'fsync', FSYNC)


@pytest.fixture(autouse=True)
def threads_and_seed():
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    np.random.seed(0)  # of MMPretrain's augmentations
    random.seed(0)


@pytest.fixture(autouse=True)
def same_signal_handlers():
    """A run that fails leaves the handlers of its hooks; the next test has those of before it."""
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1
    before = {number: signal.getsignal(number) for number in signals}
    yield
    for number, handler in before.items():
        if handler is not None:  # it was set by no one in Python
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def mmpretrain_scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(autouse=True)
def plain_dumps(monkeypatch):
    # Most of a tiny run's time is the layout of the config that it dumps.
    for module in 'yapf.yapflib.yapf_api', 'mmengine.config.config':
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)


@pytest.fixture(autouse=True)
def no_run_before():
    # A run that begins in the same second as one before it has its name, and
    # would take over its best score, its list of checkpoints and its log files.
    from mmpretrain.visualization import UniversalVisualizer

    yield
    for kind in MessageHub, Visualizer, UniversalVisualizer:
        kind._instance_dict.clear()
    for name in [name for name in MMLogger._instance_dict if name != 'mmengine']:
        del MMLogger._instance_dict[name]


@pytest.fixture(scope='session', autouse=True)
def workers_end_soon():
    # A worker whose dataset has failed never ends by itself: torch waits 5 s for it.
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5
    # MMEngine's iteration-based loop waits 2 s for them between two epochs.
    loops.time = SimpleNamespace(sleep=lambda seconds: None)


@pytest.fixture(autouse=True)
def nothing_typed(monkeypatch):
    # The command `poslabel` writes down what was typed, for its process and their children.
    monkeypatch.setenv('POSLABEL_MM_COMMAND', '')


def pytest_terminal_summary(terminalreporter):
    # Of the tests that say what they did by `record_property('did', ...)`.
    for report in terminalreporter.stats.get('passed', []):
        for name, value in report.user_properties:
            if name == 'did':
                terminalreporter.line(value)
