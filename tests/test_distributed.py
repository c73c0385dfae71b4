"""Two CPU processes with batch b are one process with batch 2b."""
import json
import os
import os.path as osp
import subprocess
import sys
from glob import glob

import pytest
import torch
from tiny_run import make_config, make_images, train, weights

ROOT = osp.dirname(osp.dirname(osp.realpath(__file__)))
LAUNCHER = osp.join(ROOT, 'tools', 'dist_train.sh')


def _run(*command, **env):
    return subprocess.run(
        [str(part) for part in command],
        env={
            **os.environ, 'PYTHON': sys.executable,
            'OMP_NUM_THREADS': '1',
            **env
        },
        capture_output=True,
        text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    data = make_images(tmp_path / 'the images')
    # 12 images are 3 batches of 4, or of 2 times 2. No Adam: it divides the
    # rounding errors of a gradient that is 0 (of the keys' bias) by their size.
    sgd = {'optim_wrapper.optimizer': dict(type='SGD', lr=0.1, momentum=0.9)}
    one = make_config(tmp_path, data, 'one', **sgd)
    losses = train(one)
    two = make_config(
        tmp_path, data, 'two', **sgd, **{
            'train_dataloader.batch_size': 2,
            'log_level': 'INFO'
        })
    # A loss that is logged is that of rank 0: average over both to compare.
    two.custom_hooks.append(
        dict(type='MeanLossHook', path=str(tmp_path / 'losses.json')))
    two.custom_imports = dict(imports=['mean_loss_hook'])
    (tmp_path / 'mean_loss_hook.py').write_text(MEAN_LOSS_HOOK)
    config = tmp_path / 'two processes.py'
    two.dump(config)
    run = _run(LAUNCHER, config, 2, PYTHONPATH=str(tmp_path))
    assert run.returncode == 0, run.stderr
    averaged = json.loads((tmp_path / 'losses.json').read_text())
    assert averaged == pytest.approx(losses, abs=1e-5)
    expected = weights(tmp_path / 'one' / 'epoch_3.pth')
    actual = weights(tmp_path / 'two' / 'epoch_3.pth')
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-5)
    log, = glob(str(tmp_path / 'two' / '*' / '*.log'))
    assert 'GPU number: 2' in open(log).read()


def test_mistake_is_told_once(tmp_path):
    run = _run(LAUNCHER, tmp_path / 'nowhere.py', 2)
    assert run.returncode == 1
    said = [line for line in run.stderr.splitlines() if line.strip()]
    assert len(said) == 1 and 'nowhere.py does not exist' in said[0], said


MEAN_LOSS_HOOK = """
import json
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class MeanLossHook(Hook):
    def __init__(self, path):
        self.path, self.losses = path, []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        loss = outputs['loss'].clone()
        all_reduce(loss, op='mean')
        self.losses.append(loss.item())

    def after_train(self, runner):
        if runner.rank == 0:
            json.dump(self.losses, open(self.path, 'w'))
"""
