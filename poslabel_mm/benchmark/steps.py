"""Whole training steps of configs, each beside the baseline's."""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import FUNCTIONS
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from poslabel_mm.benchmark.timing import machine, take_turns, write
from poslabel_mm.launch.arguments import read_config


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
        calls = dict(
            baseline=training_step(read_config(args.baseline, None), args),
            ours=training_step(read_config(name, args.cfg_options), args),
        )
        rows = [
            dict(
                baseline=Path(args.baseline).stem,
                config=Path(name).stem,
                options=' '.join(args.cfg_options or []),
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
