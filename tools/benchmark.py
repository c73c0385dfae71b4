#!/usr/bin/env python
"""Time training steps and the relative loss, in turn in one run.

    python tools/benchmark.py step vit-b_in1k.py vit-b_apl_in1k.py vit-b_rpl_in1k.py
    python tools/benchmark.py pairs --grids 7 14 24 --batch-sizes 1 2 8
    python tools/benchmark.py table benchmarks/*.csv

Machines drift, so a single time says little: what is compared takes turns, and
what counts is the ratio of each pair. Every round goes to the CSV, with the
machine and the versions; `table` makes the Markdown of the README from it.
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

try:
    import poslabel_mm  # noqa: E402  isort: skip
except ImportError as error:
    if error.name is not None:
        raise
    sys.exit(f'error: {error}')  # what the MM stack lacks
import mmengine  # noqa: E402
import mmpretrain  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import FUNCTIONS, DefaultScope  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

from poslabel_mm.models import RelativePositionalLabelHead  # noqa: E402
from poslabel_mm.models.losses.pairwise_cross_entropy import CLASS_MULTIPLE, _default_pairs  # noqa: E402
from poslabel_mm.tokens import PatchTokens  # noqa: E402

TOKEN_CHANNELS = 768  # ViT-B's: the released widths 768 -> 384 -> 384 -> C
DRAWN_PAIRS = 16
CONDITIONS = ('device', 'dtype', 'compile', 'threads', 'torch')
FORMS = ('exact', 'drawn', 'written_out', 'token_loop', 'products')


def parse_args() -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    shared.add_argument(
        '--dtype',
        default='float32',
        choices=['float32', 'bfloat16', 'float16'],
        help='autocast dtype; float32 is no autocast (default)',
    )
    shared.add_argument('--compile', action='store_true', help='torch.compile the model')
    shared.add_argument('--threads', type=int, help='CPU threads')
    shared.add_argument('--rounds', type=int, default=9, help='timed rounds (default 9)')
    shared.add_argument('--warmup', type=int, default=1, help='untimed rounds (default 1)')
    shared.add_argument('--out', type=Path, help='CSV to append every round to')

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    step = commands.add_parser('step', parents=[shared], help="configs' whole training steps")
    step.add_argument('baseline', help='config to compare with')
    step.add_argument('configs', nargs='+', help='configs to compare')
    step.add_argument('--batch-size', type=int, default=4, help='images a step (default 4)')
    step.add_argument(
        '--cfg-options',
        nargs='+',
        action=mmengine.config.DictAction,
        help='changes to the compared configs, not to the baseline',
    )
    pairs = commands.add_parser('pairs', parents=[shared], help='forms of the relative loss')
    pairs.add_argument(
        '--grids',
        nargs='+',
        type=int,
        default=[7, 14, 24],
        help='patches along a side (default 7 14 24)',
    )
    pairs.add_argument(
        '--batch-sizes', nargs='+', type=int, default=[1, 2, 8], help='default 1 2 8'
    )
    pairs.add_argument(
        '--forms',
        nargs='+',
        choices=FORMS,
        default=FORMS,
        help='default: all; ratios are to exact',
    )
    pairs.add_argument(
        '--max-gb',
        type=float,
        default=3.0,
        help='leave a form out where its logits alone are larger (default 3)',
    )
    memory = commands.add_parser(
        'memory', parents=[shared], help='peak MiB of one form, in this process'
    )
    memory.add_argument('form')
    memory.add_argument('grid', type=int)
    memory.add_argument('batch_size', type=int)
    table = commands.add_parser('table', help='Markdown of CSVs')
    table.add_argument('csv', nargs='+', type=Path)
    args = parser.parse_args()
    if args.command == 'table':
        return args
    for name in ('rounds', 'batch_size'):
        if getattr(args, name, 1) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: no GPU is visible here')
    return args


# ----------------------------------------------------------------- measuring


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
        poslabel_mm=poslabel_mm.__version__,
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


# ------------------------------------------------------------- training steps


def load(name: str) -> Config:
    path = Path(name)
    return Config.fromfile(str(path) if path.is_file() else poslabel_mm.config_path(name))


def training_step(cfg: Config, args: argparse.Namespace) -> Callable:
    """The whole step as MMEngine runs it: Mixup, losses, backward, update."""
    torch.manual_seed(0)
    cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train().to(args.device)
    # The precision asked for, whatever the config trains in (MAE's has AMP).
    for key in ('dtype', 'loss_scale'):
        cfg.optim_wrapper.pop(key, None)
    cfg.optim_wrapper.type = 'OptimWrapper'
    if args.dtype != 'float32' and args.device == 'cpu':
        cfg.optim_wrapper.type = 'poslabel_mm.CPUAmpOptimWrapper'
    elif args.dtype != 'float32':
        cfg.optim_wrapper.update(
            type='AmpOptimWrapper',
            dtype=args.dtype,
            loss_scale='dynamic' if args.dtype == 'float16' else 1.0,
        )
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    side = cfg.model.backbone.get('img_size', 224)
    size = (side, side) if isinstance(side, int) else side
    head = cfg.model.get('head') or {}
    images = torch.randint(0, 256, (args.batch_size, 3, *size), dtype=torch.uint8)
    labels = torch.randint(0, head.get('num_classes', 2), (args.batch_size,))

    collate = cfg.train_dataloader.get('collate_fn', dict(type='pseudo_collate'))
    collate = FUNCTIONS.get(collate['type'])

    def data() -> dict:
        # Anew, for Mixup writes into the samples; the images are the same.
        return collate(
            [
                dict(inputs=image, data_samples=DataSample().set_gt_label(label))
                for image, label in zip(images, labels)
            ]
        )

    if args.compile:
        model.compile()
    return lambda: model.train_step(data(), optim_wrapper)


def time_steps(args: argparse.Namespace) -> None:
    # One pair of models at a time: all of them at once would crowd a GPU.
    for name in args.configs:
        cfg = load(name)
        if args.cfg_options:
            cfg.merge_from_dict(args.cfg_options)
        calls = dict(
            baseline=training_step(load(args.baseline), args), ours=training_step(cfg, args)
        )
        rows = [
            dict(
                baseline=Path(args.baseline).stem,
                config=Path(name).stem,
                options=' '.join(f'{k}={v}' for k, v in (args.cfg_options or {}).items()),
                batch_size=args.batch_size,
                round=i,
                baseline_seconds=f'{r["baseline"]["seconds"]:.6f}',
                seconds=f'{r["ours"]["seconds"]:.6f}',
                ratio=f'{r["ours"]["seconds"] / r["baseline"]["seconds"]:.4f}',
                baseline_peak_mib=r['baseline']['peak_mib'],
                peak_mib=r['ours']['peak_mib'],
                **machine(args),
            )
            for i, r in enumerate(take_turns(calls, args))
        ]
        write(args.out, rows)
        ratio = statistics.median(float(row['ratio']) for row in rows)
        print(
            f'{name} {rows[0]["options"]} / {args.baseline}: {ratio:.3f} (median of '
            f'{len(rows)} rounds, batch {args.batch_size}, {args.dtype}, '
            f'{rows[0]["device"]})',
            flush=True,
        )


# -------------------------------------------------------------- relative loss


def pair_loss(form: str, grid: int, batch_size: int, args: argparse.Namespace) -> Callable:
    """Forward and backward of a form of the loss, gradients already there."""
    torch.manual_seed(0)
    if form == 'products':
        return bare_products(grid, batch_size, args)
    head = RelativePositionalLabelHead(
        TOKEN_CHANNELS, grid, pairs_per_token=DRAWN_PAIRS if form == 'drawn' else None
    )
    head.init_weights()
    head.to(args.device)
    tokens = torch.randn(batch_size, grid * grid, TOKEN_CHANNELS, device=args.device)
    tokens.requires_grad_()
    for tensor in (tokens, *head.parameters()):
        tensor.grad = torch.zeros_like(tensor)
    reference = None if form in ('exact', 'drawn') else written_form(form)
    device_type = torch.device(args.device).type

    def call() -> None:
        autocast = args.dtype != 'float32'
        with torch.autocast(
            device_type, getattr(torch, args.dtype) if autocast else None, enabled=autocast
        ):
            if reference is None:
                loss = head.loss(PatchTokens(tokens, (grid, grid)))['loss_rpl']
            else:
                codes = poslabel_mm.tokens.labels.relative_codes((grid, grid), device=args.device)
                loss, _ = reference(
                    tokens[..., head.query_channels],
                    tokens[..., head.key_channels],
                    *codes,
                    head.fc1,
                    [head.fc2, head.classifier],
                )
        loss.backward()

    return torch.compile(call) if args.compile else call


def bare_products(grid: int, batch_size: int, args: argparse.Namespace) -> Callable:
    """The matrix products of the exact form, chunk by chunk, and nothing between them.

    Each pair's logits and their two gradients: what is left of its time once all else is free.
    """
    hidden, num_classes = TOKEN_CHANNELS // 2, (2 * grid - 1) ** 2
    num_classes += -num_classes % CLASS_MULTIPLE
    pairs = batch_size * grid**4
    factory = dict(dtype=getattr(torch, args.dtype), device=args.device)
    bytes_of_pair = factory['dtype'].itemsize * (2 * hidden + num_classes)
    if args.dtype != 'float32':
        bytes_of_pair += 4 * num_classes  # the logits, for the softmax
    size = min(pairs, _default_pairs(torch.device(args.device).type, bytes_of_pair))
    x, d_x = (torch.randn(size, hidden, **factory) for _ in range(2))
    weight, d_weight = (torch.randn(num_classes, hidden, **factory) for _ in range(2))
    logits = x @ weight.t()

    def call() -> None:
        for left in range(pairs, 0, -size):
            rows = slice(min(left, size))
            torch.mm(x[rows], weight.t(), out=logits[rows])
            torch.mm(logits[rows].t(), x[rows], out=d_weight)
            torch.mm(logits[rows], weight, out=d_x[rows])

    return call


def written_form(form: str) -> Callable:
    """The plain forms, which the tests compare with too."""
    folder = ROOT / 'tests'
    if not (folder / 'pairwise_reference.py').is_file():
        raise poslabel_mm.UserError(
            'the forms to compare with are in tests/ of the source tree: run this from a checkout'
        )
    sys.path.insert(0, str(folder))
    import pairwise_reference

    return getattr(pairwise_reference, form)


def time_pairs(args: argparse.Namespace) -> None:
    for grid in args.grids:
        for batch_size in args.batch_sizes:
            num_classes = (2 * grid - 1) ** 2
            logits_gb = batch_size * grid**4 * num_classes * 4 / 1e9
            forms = [
                form
                for form in args.forms
                if form not in ('written_out', 'token_loop') or logits_gb <= args.max_gb
            ]
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


def peak_of_a_process(form: str, grid: int, batch_size: int, args: argparse.Namespace) -> str:
    """Peak MiB of a form on a CPU, beyond tokens, parameters and gradients."""
    if args.device != 'cpu' or not Path('/proc/self/clear_refs').exists():
        return ''
    command = [
        sys.executable,
        __file__,
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
    env = dict(os.environ, MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536')
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


# --------------------------------------------------------------------- tables


def markdown(paths: list[Path]) -> str:
    """One Markdown table for each CSV: medians over the rounds."""
    parts = []
    for path in paths:
        with path.open(newline='') as f:
            rows = list(csv.DictReader(f))
        make = steps_table if 'baseline' in rows[0] else pairs_table
        # What was measured under other conditions is no round of the same.
        apart = (*CONDITIONS, 'baseline') if make is steps_table else CONDITIONS
        parts += map(make, groups(rows, *apart).values())
    return '\n\n'.join(parts)


def groups(rows: list[dict], *names: str) -> dict[tuple, list[dict]]:
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def median(rows: list[dict], name: str, digits: int) -> str:
    values = [float(row[name]) for row in rows if row[name]]
    return f'{statistics.median(values):.{digits}f}' if values else ''


def conditions(rows: list[dict]) -> str:
    row = rows[0]
    return (
        f'{row["device"]}, {row["threads"]} threads, {row["dtype"]}, torch {row["torch"]}; '
        'medians of the rounds'
    )


def steps_table(rows: list[dict]) -> str:
    on_gpu = any(row['peak_mib'] for row in rows)
    lines = [
        f'| training step of | batch | times `{rows[0]["baseline"]}` | range | rounds |'
        + ' more memory, MiB |' * on_gpu,
        '|---|---|---|---|---|' + '---|' * on_gpu,
    ]
    for (config, options, batch), found in groups(rows, 'config', 'options', 'batch_size').items():
        ratios = [float(row['ratio']) for row in found]
        name = f'`{config}` {options}'.strip()
        lines.append(
            f'| {name} | {batch} | {statistics.median(ratios):.3f} | '
            f'{min(ratios):.3f} to {max(ratios):.3f} | {len(found)} |'
        )
        if on_gpu:
            more = (float(row['peak_mib']) - float(row['baseline_peak_mib']) for row in found)
            lines[-1] += f' {statistics.median(more):.0f} |'
    return '\n'.join(lines + ['', conditions(rows) + '.'])


def pairs_table(rows: list[dict]) -> str:
    lines = [
        '| grid | batch | form | times exact | peak memory, MiB | rounds |',
        '|---|---|---|---|---|---|',
    ]
    for (grid, batch, form), found in groups(rows, 'grid', 'batch_size', 'form').items():
        lines.append(
            f'| {grid}×{grid} | {batch} | {form.replace("_", " ")} | '
            f'{median(found, "over_exact", 2)} | {median(found, "peak_mib", 0)} | '
            f'{len(found)} |'
        )
    return '\n'.join(lines + ['', conditions(rows) + '.'])


def main() -> None:
    args = parse_args()
    if args.command == 'table':
        print(markdown(args.csv))
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    if torch.device(args.device).index is not None:
        torch.cuda.set_device(args.device)  # whose events and memory are read
    MMLogger.get_instance('benchmark', log_level='WARNING')
    command = dict(step=time_steps, pairs=time_pairs, memory=print_memory)[args.command]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        command(args)


if __name__ == '__main__':
    try:
        main()
    except poslabel_mm.UserError as error:
        sys.exit(f'error: {error}')
