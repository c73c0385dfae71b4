"""What is compared takes turns; every round is recorded with the machine and the versions."""

import argparse
import csv
import platform
import time
from collections.abc import Callable
from pathlib import Path

import mmengine
import mmpretrain
import torch

from poslabel_mm.version import __version__


class Stopwatch:
    """Seconds of a call, and its peak bytes on a GPU: device events there."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith('cuda')

    def __call__(self, call: Callable) -> dict[str, object]:
        if not self.cuda:
            start = time.perf_counter()
            call()
            return dict(seconds=time.perf_counter() - start, peak_mib='')
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return dict(
            seconds=start.elapsed_time(end) / 1e3,
            peak_mib=round((torch.cuda.max_memory_allocated() - before) / 2**20, 1),
        )


def take_turns(calls: dict[str, Callable], args: argparse.Namespace) -> list[dict[str, dict]]:
    """Measure the calls in turn; who goes first changes from round to round."""
    stopwatch = Stopwatch(args.device)
    names = list(calls)
    for _ in range(args.warmup):
        for call in calls.values():
            call()
    rounds = []
    for i in range(args.rounds):
        order = names if i % 2 == 0 else names[::-1]
        measured = {name: stopwatch(calls[name]) for name in order}
        rounds.append(measured)
    return rounds


def machine(args: argparse.Namespace) -> dict[str, object]:
    if args.device.startswith('cuda'):
        name = torch.cuda.get_device_name()
    else:
        name = platform.processor() or platform.machine()
        cpuinfo = Path('/proc/cpuinfo')
        if cpuinfo.is_file():
            name = next(
                (
                    line.split(':', 1)[1].strip()
                    for line in cpuinfo.read_text().splitlines()
                    if line.startswith('model name')
                ),
                name,
            )
    return dict(
        dtype=args.dtype,
        compile=args.compile,
        device=name,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmpretrain=mmpretrain.__version__,
        poslabel_mm=__version__,
    )


def write(path: Path | None, rows: list[dict]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open('a', newline='') as f:
        writer = csv.DictWriter(f, rows[0], lineterminator='\n')
        if new:
            writer.writeheader()
        writer.writerows(rows)
