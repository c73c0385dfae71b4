"""Peak memory of a form of the relative loss on a CPU, in a process of its own."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from poslabel_mm.benchmark.forms import ROOT, pair_loss


def peak_of_a_process(form: str, grid: int, batch_size: int, args: argparse.Namespace) -> str:
    """Peak MiB of a form on a CPU, beyond tokens, parameters and gradients."""
    if args.device != 'cpu' or not Path('/proc/self/clear_refs').exists():
        return ''
    command = [
        sys.executable,
        '-m',
        'poslabel_mm.benchmark',
        'memory',
        form,
        str(grid),
        str(batch_size),
        '--device',
        'cpu',
        '--dtype',
        args.dtype,
        '--threads',
        str(torch.get_num_threads()),
        *['--compile'] * args.compile,
    ]
    # So that what is freed goes back to the system at once.
    env = dict(
        os.environ,
        MALLOC_MMAP_THRESHOLD_='65536',
        MALLOC_TRIM_THRESHOLD_='65536',
        PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]),
    )
    return subprocess.run(
        command, env=env, check=True, capture_output=True, text=True
    ).stdout.split()[-1]


def print_memory(args: argparse.Namespace) -> None:

    def status(field: str) -> float:
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

    pair_loss(args.form, 4, 1, args)()  # thread pools and scratch are there
    call = pair_loss(args.form, args.grid, args.batch_size, args)
    if args.compile:
        call()  # the compiler's own memory is none of the form's
    before = status('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # start VmHWM anew
    call()
    print(f'{status("VmHWM") - before:.1f}')
