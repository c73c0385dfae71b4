"""Which of a run's processes this one is, before they have joined."""

import os

from mmengine.config import Config

RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
WORLD_SIZES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')


def rank(cfg: Config) -> int:
    """This process's number among all of the run's.

    Args:
        cfg (Config): A config with ``launcher``.
    """
    return 0 if cfg.launcher == 'none' else int(os.environ[RANKS[cfg.launcher]])


def local_rank() -> int:
    """This process's number among those on this machine."""
    return next((int(os.environ[name]) for name in LOCAL_RANKS if name in os.environ), 0)


def num_processes(cfg: Config) -> int:
    """The number of processes that the run has, on all machines.

    Args:
        cfg (Config): A config; without ``launcher`` there is one process.
    """
    variable = WORLD_SIZES.get(cfg.get('launcher'))
    return int(os.environ.get(variable, 1)) if variable else 1
