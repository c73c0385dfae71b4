"""The rank of this process, and the number of processes, before they have joined."""

import os

from mmengine.config import Config

from poslabel_mm.errors import UserError

RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
WORLD_SIZES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')


def rank(cfg: Config) -> int:
    """This process's number among all of the run's.

    Args:
        cfg (Config): A config with ``launcher``.
    """
    return 0 if cfg.launcher == 'none' else _number(RANKS[cfg.launcher])


def local_rank() -> int:
    """This process's number among those on this machine.

    Raises:
        UserError: If the launcher's variable is no number.
    """
    return next((_number(name) for name in LOCAL_RANKS if name in os.environ), 0)


def num_processes(cfg: Config) -> int:
    """The number of processes that the run has, on all machines.

    Args:
        cfg (Config): A config; without ``launcher`` there is one process.
    """
    variable = WORLD_SIZES.get(cfg.get('launcher'))
    return _number(variable) if variable is not None and variable in os.environ else 1


def _number(variable: str) -> int:
    value = os.environ[variable]
    if not value.isdecimal():
        raise UserError(f'{variable}={value} is no whole number')
    return int(value)
