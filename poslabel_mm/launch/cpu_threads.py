"""The number of threads of a process that shares a machine with others."""

import os

import torch

# The launchers' variables for the number of processes on this machine. Slurm lists their ranks.
PROCESSES = dict(slurm='SLURM_GTIDS', mpi='OMPI_COMM_WORLD_LOCAL_SIZE')


def threads_per_process(processes: int, cores: int) -> int:
    """Threads for each of several processes that train on one machine.

    Args:
        processes (int): The number of processes.
        cores (int): The number of CPU cores that they share.

    Returns:
        int: 1 where a GPU computes, an equal share of the cores where none does.
    """
    return 1 if torch.cuda.is_available() else max(1, cores // processes)


def bound_cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores(launcher: str) -> None:
    """Give this process its share of the machine, where its launcher has not.

    Slurm and MPI set no number of threads, so each process would take all cores. An
    OMP_NUM_THREADS that the user has set is kept.

    Args:
        launcher (str): The value of ``--launcher``.
    """
    listed = os.environ.get(PROCESSES.get(launcher, ''))
    if listed is None:
        return
    if 'OMP_NUM_THREADS' not in os.environ:
        processes = listed.count(',') + 1 if launcher == 'slurm' else int(listed)
        cores = os.cpu_count() or 1
        # A process may be bound to a part of its Slurm job's cores on this machine, or to
        # none; a machine may have fewer cores than Slurm's configuration gives it.
        cores = min(cores, int(os.environ.get('SLURM_CPUS_ON_NODE', cores)))
        threads = min(threads_per_process(processes, cores), bound_cores())
        torch.set_num_threads(threads)  # torch has read the variable already
        os.environ['OMP_NUM_THREADS'] = str(threads)
    os.environ.setdefault('MKL_NUM_THREADS', os.environ['OMP_NUM_THREADS'])
