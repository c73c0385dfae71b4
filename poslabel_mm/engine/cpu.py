"""Distributed training on machines without a GPU."""

import os
import subprocess

import torch.distributed
from mmengine.config import Config

from poslabel_mm.engine.wrappers import wrap_without_device
from poslabel_mm.errors import UserError

# The variables that each launcher sets, and how a user starts it.
SET = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
        'MASTER_ADDR',
    ),
}
STARTED_BY = {
    'pytorch': '`torchrun --nproc-per-node=GPUS -m poslabel_mm ...`, or in a checkout with '
    'tools/dist_train.sh or tools/dist_test.sh',
    'slurm': '`srun python -m poslabel_mm ...`, or in a checkout with tools/slurm_train.sh or '
    'tools/slurm_test.sh',
    'mpi': 'mpirun, with MASTER_ADDR set',
}
NUMBERS = ('RANK', 'WORLD_SIZE', 'PROCID', 'NTASKS', 'SIZE')


def check_launcher(launcher: str) -> None:
    """Check that a process was started by the launcher that its command names.

    Args:
        launcher (str): The value of ``--launcher``.

    Raises:
        UserError: If a variable that the launcher sets is missing, or if a rank, a number of
            processes or a port is invalid.
    """
    for name in SET.get(launcher, ()):
        value = os.environ.get(name)
        if value is None:
            raise UserError(
                f'--launcher {launcher} needs {name}, which is '
                f'not set: start it with {STARTED_BY[launcher]}'
            )
        if name.endswith(NUMBERS) and not value.isdecimal():
            raise UserError(f'{name}={value} is no whole number')
    port = os.environ.get('MASTER_PORT', '29500')
    if launcher != 'none' and not (port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f'MASTER_PORT={port} is no port: take a number from 1 to 65535')


def start_gloo(cfg: Config) -> None:
    """Join the other processes through gloo, before the Runner is built.

    MMEngine would select a CUDA device in every process. It leaves a process
    group that exists as it is.

    Args:
        cfg (Config): A config whose ``launcher`` is not ``'none'``. Its model
            wrapper is changed to use no GPU.
    """
    _read_environment(cfg.launcher)
    torch.distributed.init_process_group('gloo')
    wrap_without_device(cfg)


def _read_environment(launcher: str) -> None:
    """Set the variables that torch reads, from those of the launcher."""
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
                check=True,
            ).stdout.split()
            env['MASTER_ADDR'] = hosts[0]
    elif launcher == 'mpi':
        env['RANK'] = env['OMPI_COMM_WORLD_RANK']
        env['WORLD_SIZE'] = env['OMPI_COMM_WORLD_SIZE']
        env['LOCAL_RANK'] = env['OMPI_COMM_WORLD_LOCAL_RANK']
    env.setdefault('MASTER_PORT', '29500')
