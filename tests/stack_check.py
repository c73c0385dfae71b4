"""Train, resume, test and inherit stock configs on the stack it is run with.

    python tests/stack_check.py {onedl,openmmlab} FOLDER

It leaves its runs in FOLDER and exits with 0 only if every step held.
"""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# A stock config with Mixup and CutMix, made small; ours are the two
# `poslabel_mm` lines of the model and the hook that makes resuming exact.
CONFIG = """
_base_ = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=16, grid_size=(3, 3)),
    backbone=dict(
        _delete_=True, type='VisionTransformer', img_size=12, patch_size=4, drop_path_rate=0.1,
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)),
    head=dict(num_classes=10, in_channels=16))
data_preprocessor = dict(num_classes=10)
pipeline = [dict(type='Resize', scale=12), dict(type='PackInputs')]
train_dataloader = dict(
    _delete_=True, batch_size=10, num_workers=1,
    dataset=dict(type='poslabel_mm.Digits', split='train', indices=200, pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    _delete_=True, batch_size=50, num_workers=0,
    dataset=dict(type='poslabel_mm.Digits', split='test', indices=200, pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=2, convert_to_iter_based=True)]
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [dict(type='poslabel_mm.EpochSeedHook')]
optim_wrapper = dict(optimizer=dict(lr=3e-3))
randomness = dict(seed=0)
"""


class Bomb:
    """Unpickles by making a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def tool(name, *args, folder):
    """Run a tool as a user would, from elsewhere than the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools' / name), *map(str, args)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def fork_tool(name, *args, folder, **env):
    """The same in a fork of this process, which has imported the stack: 5 s less."""
    command = [str(ROOT / 'tools' / name), *map(str, args)]
    with tempfile.TemporaryFile('w+') as stdout, tempfile.TemporaryFile('w+') as stderr:
        process = multiprocessing.get_context('fork').Process(
            target=_run_here, args=(command, folder, env, stdout.fileno(), stderr.fileno())
        )
        process.start()
        process.join()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(command, process.exitcode, stdout.read(), stderr.read())


def _run_here(command, folder, env, stdout, stderr):
    os.environ.update(env)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')  # pytest has its own
    os.chdir(folder)
    # As Python itself does with PYTHONPATH.
    paths = [path for path in env.get('PYTHONPATH', '').split(os.pathsep) if path]
    sys.argv, sys.path[:1] = command, [str(ROOT / 'tools'), *paths]
    runpy.run_path(command[0], run_name='__main__')


def succeed(name, *args, folder, tool=fork_tool):
    done = tool(name, *args, folder=folder)
    if done.returncode != 0:
        sys.exit(f'{name} {" ".join(map(str, args))} failed:\n{done.stdout}{done.stderr}')
    return done.stdout + done.stderr


def accuracies(work_dir):
    """Top-1 and top-5 in percent, as the last test or validation logged them."""
    logs = [*work_dir.glob('*/vis_data/scalars.json'), *work_dir.glob('*/*.json')]
    last = json.loads(logs[0].read_text().splitlines()[-1])
    return last['accuracy/top1'], last['accuracy/top5']


def check(stack, folder, first=tool):
    """Run the steps, the first training with ``first``: as a user would, or in a fork."""
    from poslabel_mm.stack import compat

    found = compat.check_stack(compat.installed_versions())
    assert found == stack, f'this environment has the stack {found}'

    import mmengine  # noqa: F401  (with it torch.load accepts what its checkpoints hold)
    import torch

    (folder / 'mine.py').write_text(CONFIG)
    whole, rest, tested = (folder / name for name in ('whole', 'rest', 'tested'))
    succeed('train.py', 'mine.py', '--work-dir', whole, folder=folder, tool=first)
    print('trained two epochs of a config that inherits mmpretrain::', flush=True)

    log = succeed(
        'train.py', 'mine.py', '--work-dir', rest, '--resume', whole / 'epoch_1.pth', folder=folder
    )
    assert 'resumed epoch: 1' in log, log
    weights = [
        torch.load(d / 'epoch_2.pth', map_location='cpu')['state_dict'] for d in (whole, rest)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert any(name.startswith('pos_head.') for name in weights[0])
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), f'{name} differs after resuming'
    print('resumed after the first epoch to equal weights', flush=True)

    succeed('test.py', 'mine.py', whole / 'epoch_2.pth', '--work-dir', tested, folder=folder)
    assert accuracies(tested) == accuracies(whole), (accuracies(tested), accuracies(whole))
    print(
        'tested the checkpoint: top-1 {} %, top-5 {} %, as at the end of training'.format(
            *accuracies(tested)
        ),
        flush=True,
    )

    bomb, trace = folder / 'bomb.pth', folder / 'went_off'
    torch.save({'state_dict': {}, 'payload': Bomb(str(trace))}, bomb)
    done = fork_tool('test.py', 'mine.py', bomb, folder=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith('error: '), done.stderr
    assert 'bomb.pth' in done.stderr.splitlines()[-1], done.stderr
    assert not trace.exists()
    print('refused a checkpoint that carries code', flush=True)


if __name__ == '__main__':
    check(sys.argv[1], Path(sys.argv[2]).resolve())
