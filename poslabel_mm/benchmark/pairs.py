"""The forms of the relative loss, each beside the exact one."""

import argparse
import statistics

import torch

from poslabel_mm.benchmark.forms import FORMS, gigabytes, pair_loss
from poslabel_mm.benchmark.memory import peak_of_a_process
from poslabel_mm.benchmark.timing import machine, take_turns, write

__all__ = ['FORMS', 'time_pairs']


def time_pairs(args: argparse.Namespace) -> None:
    known = [*args.forms]
    if 'torch' in known and not hasattr(torch.nn.functional, 'linear_cross_entropy'):
        print(f'torch {torch.__version__} has no linear_cross_entropy: form torch is left out')
        known.remove('torch')
    for grid in args.grids:
        for batch_size in args.batch_sizes:
            forms = [form for form in known if gigabytes(form, grid, batch_size) <= args.max_gb]
            calls = {form: pair_loss(form, grid, batch_size, args) for form in forms}
            rounds = take_turns(calls, args)
            for form in forms:
                memory = form != 'products' and peak_of_a_process(form, grid, batch_size, args)
                rows = [
                    dict(
                        form=form,
                        grid=grid,
                        batch_size=batch_size,
                        round=i,
                        seconds=f'{r[form]["seconds"]:.6f}',
                        over_exact=f'{r[form]["seconds"] / r["exact"]["seconds"]:.4f}'
                        if 'exact' in r
                        else '',
                        # Of the products the buffers are there before.
                        peak_mib='' if form == 'products' else memory or r[form]['peak_mib'],
                        **machine(args),
                    )
                    for i, r in enumerate(rounds)
                ]
                write(args.out, rows)
                seconds = statistics.median(float(row['seconds']) for row in rows)
                ratio = statistics.median(float(row['over_exact'] or 'nan') for row in rows)
                peak = rows[0]['peak_mib']
                print(
                    f'grid {grid} batch {batch_size} {form}: {seconds:.4f} s, {ratio:.3f} of '
                    f'exact' + (f', peak {peak} MiB' if peak else ''),
                    flush=True,
                )
