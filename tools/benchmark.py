#!/usr/bin/env python
"""Time a training step of one config against another's, in turn in one run.

Machines drift, so a single time says little: the models take turns, and what
counts is the ratio of each pair. Every pair goes to the CSV, with the machine
and the versions; the medians are printed.

    python tools/benchmark.py vit-b_in1k.py vit-b_apl_in1k.py --batch-size 4
"""
import argparse
import csv
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
from mmengine.registry import DefaultScope  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('baseline', help='config to compare with')
    parser.add_argument('configs', nargs='+', help='configs to compare')
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument(
        '--pairs', type=int, default=9, help='timed steps of each (default 9)')
    parser.add_argument(
        '--warmup', type=int, default=2, help='untimed steps (default 2)')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--dtype',
        default='float32',
        choices=['float32', 'bfloat16', 'float16'],
        help='autocast dtype; float32 is no autocast (default)')
    parser.add_argument(
        '--compile', action='store_true', help='torch.compile the model')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--out', type=Path, help='CSV to append the pairs to')
    args = parser.parse_args()
    for name in ('batch_size', 'pairs'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: no GPU is visible here')
    return args


def load(name: str) -> Config:
    path = Path(name)
    return Config.fromfile(
        str(path) if path.is_file() else poslabel_mm.config_path(name))


def training_step(cfg: Config, args: argparse.Namespace) -> Callable:
    """The whole step as MMEngine runs it: Mixup, losses, backward, update."""
    torch.manual_seed(0)
    cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train().to(args.device)
    if args.dtype != 'float32':
        cfg.optim_wrapper.update(
            type='AmpOptimWrapper',
            dtype=args.dtype,
            loss_scale='dynamic' if args.dtype == 'float16' else 1.)
        if args.device == 'cpu':
            cfg.optim_wrapper.pop('loss_scale')
            cfg.optim_wrapper.pop('dtype')
            cfg.optim_wrapper.type = 'poslabel_mm.CPUAmpOptimWrapper'
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    side = cfg.model.backbone.get('img_size', 224)
    size = (side, side) if isinstance(side, int) else side
    num_classes = cfg.model.head.num_classes

    images = torch.randint(
        0, 256, (args.batch_size, 3, *size), dtype=torch.uint8)
    labels = torch.randint(0, num_classes, (args.batch_size, ))

    def data() -> dict:
        # Anew, for Mixup writes into the samples; the images are the same.
        return dict(
            inputs=list(images),
            data_samples=[DataSample().set_gt_label(i) for i in labels])

    if args.compile:
        model.compile()
    return lambda: model.train_step(data(), optim_wrapper)


class Stopwatch:
    """Seconds and peak bytes of a call: device events on a GPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith('cuda')

    def __call__(self, call: Callable) -> Dict[str, object]:
        if not self.cuda:
            start = time.perf_counter()
            call()
            return dict(seconds=time.perf_counter() - start, peak_bytes='')
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return dict(
            seconds=start.elapsed_time(end) / 1e3,
            peak_bytes=torch.cuda.max_memory_allocated())


def machine(args: argparse.Namespace) -> Dict[str, object]:
    if args.device.startswith('cuda'):
        name = torch.cuda.get_device_name()
    else:
        name = platform.processor() or platform.machine()
        cpuinfo = Path('/proc/cpuinfo')
        if cpuinfo.is_file():
            name = next((line.split(':', 1)[1].strip()
                         for line in cpuinfo.read_text().splitlines()
                         if line.startswith('model name')), name)
    return dict(
        device=name,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmpretrain=mmpretrain.__version__,
        poslabel_mm=poslabel_mm.__version__)


def write(path: Path, rows: List[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open('a', newline='') as f:
        writer = csv.DictWriter(f, rows[0], lineterminator='\n')
        if new:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    MMLogger.get_instance('benchmark', log_level='WARNING')
    stopwatch = Stopwatch(args.device)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        baseline = training_step(load(args.baseline), args)
        for name in args.configs:
            step = training_step(load(name), args)
            for _ in range(args.warmup):
                baseline()
                step()
            rows = []
            for pair in range(args.pairs):
                # Take turns at going first: the second finds a warmer machine.
                if pair % 2:
                    ours, base = stopwatch(step), stopwatch(baseline)
                else:
                    base, ours = stopwatch(baseline), stopwatch(step)
                rows.append(
                    dict(
                        baseline=Path(args.baseline).stem,
                        config=Path(name).stem,
                        batch_size=args.batch_size,
                        dtype=args.dtype,
                        compile=args.compile,
                        pair=pair,
                        baseline_seconds=f'{base["seconds"]:.6f}',
                        seconds=f'{ours["seconds"]:.6f}',
                        ratio=f'{ours["seconds"] / base["seconds"]:.4f}',
                        baseline_peak_bytes=base['peak_bytes'],
                        peak_bytes=ours['peak_bytes'],
                        **machine(args)))
            if args.out:
                write(args.out, rows)
            ratio = statistics.median(float(row['ratio']) for row in rows)
            print(f'{name} / {args.baseline}: {ratio:.3f} '
                  f'(median of {args.pairs} paired steps, batch '
                  f'{args.batch_size}, {args.dtype}, {rows[0]["device"]})')


if __name__ == '__main__':
    try:
        main()
    except poslabel_mm.UserError as error:
        sys.exit(f'error: {error}')
