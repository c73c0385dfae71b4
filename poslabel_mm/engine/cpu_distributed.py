"""Distributed training on machines without a GPU."""
import os
import subprocess

import torch.distributed
from mmengine.config import Config


def start_gloo(cfg: Config) -> None:
    """Join the other processes through gloo, before the Runner is built.

    MMEngine would select a CUDA device in every process. It starts nothing
    if it finds the processes joined.

    Args:
        cfg (Config): A config whose ``launcher`` is not ``'none'``. Its model
            wrapper is set to the stock one without a device.
    """
    _read_environment(cfg.launcher)
    torch.distributed.init_process_group('gloo')
    if cfg.get('model_wrapper_cfg') is None:
        # The Runner's own arguments but for the device.
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg.device_ids = None


def _read_environment(launcher: str) -> None:
    """Set what torch reads from what the launcher has set."""
    env = os.environ
    if launcher == 'slurm':
        env['RANK'] = env['SLURM_PROCID']
        env['WORLD_SIZE'] = env['SLURM_NTASKS']
        env['LOCAL_RANK'] = env.get('SLURM_LOCALID', '0')
        if 'MASTER_ADDR' not in env:
            hosts = subprocess.run(
                ['scontrol', 'show', 'hostname', env['SLURM_NODELIST']],
                capture_output=True,
                text=True,
                check=True).stdout.split()
            env['MASTER_ADDR'] = hosts[0]
    elif launcher == 'mpi':
        env['RANK'] = env['OMPI_COMM_WORLD_RANK']
        env['WORLD_SIZE'] = env['OMPI_COMM_WORLD_SIZE']
        env['LOCAL_RANK'] = env['OMPI_COMM_WORLD_LOCAL_RANK']
    env.setdefault('MASTER_PORT', '29500')
