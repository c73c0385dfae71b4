"""A run's memory does not grow: 2,000 steps with each head.

bash tools/run_tests.sh -m slow tests/test_memory.py
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tiny_run import make_images, write_config

from poslabel_mm.launch import tools as launch
from poslabel_mm.models import heads
from poslabel_mm.models.heads.base_position_head import BasePositionHead

STEPS = 2000
EVERY = 50
MIB = 2**20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc'),
    pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines'),
]

HEADS = {
    'stock classifier': [],
    **{
        name: [dict(type=f'poslabel_mm.{name}')]
        for name in heads.__all__
        if issubclass(getattr(heads, name), BasePositionHead)  # what a classifier takes
    },
    'drawn pairs': [dict(type='poslabel_mm.RelativePositionalLabelHead', pairs_per_token=3)],
    'two heads': [
        dict(type='poslabel_mm.PositionalLabelHead'),
        dict(type='poslabel_mm.RelativePositionalLabelHead'),
    ],
}


class ResidentMemory(Hook):
    """Notes the process's resident memory, in bytes, now and then."""

    priority = 'LOWEST'

    def __init__(self, out: str) -> None:
        self.out = Path(out)
        self.seen: list[int] = []

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if self.every_n_train_iters(runner, EVERY):
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            self.seen.append(pages * os.sysconf('SC_PAGE_SIZE'))

    def after_train(self, runner) -> None:
        self.out.write_text(json.dumps(self.seen))


def train(arguments: list[str]) -> None:
    """`tools/train.py`, in a process of its own."""
    torch.set_num_threads(1)
    HOOKS.register_module(module=ResidentMemory)
    sys.argv = ['train.py', *arguments]
    launch.train()


@pytest.mark.parametrize('head', HEADS)
def test_memory_is_flat(tmp_path, head, record_property):
    out = tmp_path / 'memory.json'
    pos_head = [dict(in_channels=16, grid_size=4) | part for part in HEADS[head]]
    if pos_head:
        model = f"model['pos_head'] = {pos_head}"
    else:
        model = "del model['pos_head']; model['type'] = 'ImageClassifier'"
    config = write_config(
        tmp_path,
        make_images(tmp_path / 'images', per_class=6),
        f"""
{model}
# One long epoch.
train_dataloader['dataset'] = dict(
    type='RepeatDataset', times={STEPS // 3 + 1}, dataset=train_dataloader['dataset'])
train_cfg.update(max_epochs=1)
custom_hooks = [*_base_.custom_hooks, dict(type='ResidentMemory', out={str(out)!r})]
""",
    )
    process = multiprocessing.get_context('fork').Process(
        target=train, args=([config, '--work-dir', str(tmp_path / 'run')],)
    )
    process.start()
    process.join()
    assert process.exitcode == 0

    seen = json.loads(out.read_text())
    assert len(seen) == STEPS // EVERY
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    growth = max(second) - max(first)
    record_property(
        'did',
        f'{head}: {STEPS} steps, {max(first) / MIB:.1f} MiB in the first half, '
        f'{growth / MIB:+.2f} MiB in the second',
    )
    # MMEngine keeps every value that it logs, some 0.6 KiB a step. The tokens of a step are 4 KiB.
    assert growth < 2 * MIB
