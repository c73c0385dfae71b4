"""What a training or a test needs before it starts.

MMPretrain's tools merge their arguments into the config and make the Runner from it. The
functions here take the place of that merge: they check everything that can be checked without
touching the work dir, and adapt the config to this machine.
"""

import argparse
import os
import os.path as osp
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.device import get_device

from poslabel_mm.engine.cpu import start_gloo
from poslabel_mm.engine.ranks import local_rank, rank
from poslabel_mm.engine.unwritable import check_writable, make_folder
from poslabel_mm.engine.work_dir import WorkDir
from poslabel_mm.engine.wrappers import check_wrapper
from poslabel_mm.errors import UserError
from poslabel_mm.launch.arguments import check_options
from poslabel_mm.launch.checks.build import check_model
from poslabel_mm.launch.checks.checkpoint import check_load_from, check_weights
from poslabel_mm.launch.checks.class_names import name_classes
from poslabel_mm.launch.checks.data import check_data
from poslabel_mm.launch.checks.head_schedules import check_head_schedules
from poslabel_mm.launch.checks.init_cfg import check_pretrained
from poslabel_mm.launch.checks.loops import check_other_loop, check_train_loop
from poslabel_mm.launch.checks.numbers import check_numbers
from poslabel_mm.launch.checks.options import check_auto_scale_lr, check_num_classes
from poslabel_mm.launch.checks.resume import check_resume
from poslabel_mm.launch.checks.resume_options import resume_with_options
from poslabel_mm.launch.checks.schedule import check_schedule
from poslabel_mm.launch.checks.views import check_views
from poslabel_mm.launch.data_option import use_data
from poslabel_mm.launch.vis_backends import (
    check_backends,
    keep_local_backend,
    make_room_for_backends,
)


def prepare_training(
    stock_merge: Callable, work_dir: WorkDir, cfg: Config, args: argparse.Namespace
) -> Config:
    """Check a training config and adapt it to this machine, before anything is made.

    Args:
        stock_merge (callable): The stock tool's ``merge_args``.
        work_dir (WorkDir): Claimed for this run.
        cfg (Config): The config as it was read.
        args (argparse.Namespace): The stock tool's arguments.

    Returns:
        Config: What the stock tool makes its Runner from.

    Raises:
        UserError: If the run cannot work with this config and these arguments.
    """
    make_room_for_backends(cfg, args.cfg_options)
    check_options(cfg, args)
    if cfg.get('train_dataloader') is None:
        raise UserError(f'{args.config} is no training config: it has no train_dataloader')
    use_data(cfg, args.config, args.data, ('train_dataloader', 'val_dataloader'))
    # The stock tool's default is True. With it, a resumed run in a training loop
    # other than MMEngine's draws other augmentations than an uninterrupted one.
    cfg.train_dataloader.setdefault('persistent_workers', False)
    if args.auto_scale_lr and cfg.get('auto_scale_lr') is None:
        cfg.auto_scale_lr = {}  # for the stock tool to enable it
    _keep_collation(cfg)
    cfg = stock_merge(cfg, args)
    keep_local_backend(cfg, args.cfg_options)
    check_backends(cfg)
    check_wrapper(cfg)
    _adapt_loaders(cfg)
    check_train_loop(cfg)
    check_other_loop(cfg, 'val_cfg')
    check_numbers(cfg, ('train_dataloader', 'val_dataloader'), trains=True)
    check_auto_scale_lr(cfg)
    check_num_classes(cfg, ('train_dataloader', 'val_dataloader'))
    if local_rank() == 0:
        # It lists every image: once on a machine is enough.
        check_data(cfg, ('train_dataloader', 'val_dataloader'))
    name_classes(cfg)
    check_schedule(cfg)
    check_head_schedules(cfg)
    if get_device() == 'cpu':
        use_cpu_amp(cfg)
    if local_rank() == 0:
        # They read checkpoints and build the model: once on a machine is enough.
        check_model(cfg)
        check_views(cfg)
        check_pretrained(cfg)  # read even where it is then overwritten
        if cfg.get('resume'):
            check_resume(cfg)
        else:
            check_load_from(cfg)
    if cfg.get('resume'):
        resume_with_options(cfg)
    _check_processes(cfg)
    if rank(cfg) == 0:
        work_dir.claim(cfg.work_dir)
    else:
        work_dir.use(cfg.work_dir)
    if cfg.launcher != 'none':
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or ()),
            dict(type='poslabel_mm.EqualBatchesHook'),
            dict(type='poslabel_mm.GradientLayoutHook'),
        ]
    _prepare_processes(cfg)
    return cfg


def prepare_test(
    stock_merge: Callable, work_dir: WorkDir, cfg: Config, args: argparse.Namespace
) -> Config:
    """Check a config and a checkpoint that are to be tested, before anything is made.

    Arguments, return value and errors are those of :func:`prepare_training`.
    """
    make_room_for_backends(cfg, args.cfg_options)
    check_options(cfg, args)
    if args.out is not None:
        _check_out(args.out, args.out_item)
    if cfg.get('test_dataloader') is None:
        raise UserError(f'{args.config} cannot be tested: it has no test_dataloader')
    use_data(cfg, args.config, args.data, ('test_dataloader',))
    _keep_collation(cfg)
    cfg = stock_merge(cfg, args)
    keep_local_backend(cfg, args.cfg_options)
    check_backends(cfg)
    check_wrapper(cfg)
    _adapt_loaders(cfg)
    check_other_loop(cfg, 'test_cfg')
    check_numbers(cfg, ('test_dataloader',), trains=False)
    if local_rank() == 0:
        check_data(cfg, ('test_dataloader',), args.checkpoint)
    check_num_classes(cfg, ('test_dataloader',))
    name_classes(cfg)
    if local_rank() == 0:
        check_weights(args.checkpoint, cfg)
    if get_device() == 'cpu':
        # Built with the Runner, even where it is not used.
        use_cpu_amp(cfg)
    _check_processes(cfg)
    if rank(cfg) == 0:
        make_folder(cfg.work_dir)
    work_dir.use(cfg.work_dir)
    _prepare_processes(cfg)
    return cfg


def _check_out(path: str, item: str | None) -> None:
    """Refuse a ``--out`` that could not be written after the test."""
    if not osp.isdir(osp.dirname(path) or '.'):
        raise UserError(f'the folder of --out {path} does not exist')
    kinds = ('.json', '.yaml', '.yml', '.pkl', '.pickle')
    if item != 'metrics':
        kinds = ('.pkl', '.pickle')
    if not path.endswith(kinds):
        raise UserError(
            f'--out {path} must end in {" or ".join(kinds)} for --out-item {item or "pred"}'
        )
    if local_rank() == 0:
        check_writable(path)


def _keep_collation(cfg: Config) -> None:
    """Leave other libraries' batches as MMEngine makes them.

    MMPretrain's tools stack the images, which in its configs have one size.
    """
    if cfg.get('default_scope', 'mmpretrain') in ('mmengine', 'mmpretrain'):
        return
    for name in 'train_dataloader', 'val_dataloader', 'test_dataloader':
        if cfg.get(name):
            cfg[name].setdefault('collate_fn', dict(type='pseudo_collate'))


def _adapt_loaders(cfg: Config) -> None:
    """Change the stock defaults that do not suit this machine or config."""
    for name in 'train_dataloader', 'val_dataloader', 'test_dataloader':
        loader = cfg.get(name)
        if loader is None:
            continue
        if not loader.get('num_workers'):
            loader.persistent_workers = False  # an error without workers
        if get_device() == 'cpu':
            loader.pin_memory = False  # a warning every epoch


def use_cpu_amp(cfg: Config) -> None:
    """Replace MMEngine's mixed precision, which needs a GPU, with bfloat16 on the CPU."""
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') in ('AmpOptimWrapper', 'mmengine.AmpOptimWrapper'):
        wrapper.type = 'poslabel_mm.CPUAmpOptimWrapper'
        for gpu_option in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(gpu_option, None)


def _check_processes(cfg: Config) -> None:
    """Refuse more processes than there are GPUs."""
    if cfg.launcher == 'pytorch' and get_device() != 'cpu' and torch.cuda.is_available():
        asked = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        if asked > torch.cuda.device_count():
            raise UserError(
                f'{asked} processes were requested, but this '
                f'machine has {torch.cuda.device_count()} GPUs'
            )


def _prepare_processes(cfg: Config) -> None:
    if cfg.launcher != 'none' and get_device() == 'cpu':
        start_gloo(cfg)
