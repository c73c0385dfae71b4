"""Start a tool in several processes of this machine, as torchrun does.

    python tools/torchrun.py PROCESSES SCRIPT [ARGUMENTS]

Unlike torchrun it takes a free port unless PORT is set, shares the CPU cores
out where there is no GPU, and adds no report of its own to a line that a
process has printed. NNODES, NODE_RANK, MASTER_ADDR and PORT are read from the
environment, as by MMPretrain's scripts.
"""
import logging
import os
import os.path as osp
import socket
import sys

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, osp.dirname(osp.dirname(osp.realpath(__file__))))

try:
    # Here for what the MM stack lacks to be said once, not by every process.
    import poslabel_mm  # noqa: F401
    import torch
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import \
        ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig
except ImportError as error:
    if error.name is not None:
        raise
    sys.exit(f'error: {error}')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def cpu_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(processes: int, command: list) -> int:
    env = os.environ
    threads = 1 if torch.cuda.is_available() else max(
        1,
        cpu_cores() // processes)
    for name in 'OMP_NUM_THREADS', 'MKL_NUM_THREADS':
        env.setdefault(name, str(threads))
    if 'PORT' not in env and int(env.get('NNODES', 1)) > 1:
        sys.exit('error: PORT is not set; with NNODES > 1 it must be one that '
                 'is free on the first machine, the same on all of them')
    for name in list(logging.root.manager.loggerDict):
        if name.startswith('torch.distributed.elastic'):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # Slurm's warning is for the processes, as the other signals are.
    passed_on = ['--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1'
                 ] if hasattr(LaunchConfig, 'signals_to_handle') else []
    try:
        run.main([
            f'--nproc-per-node={processes}',
            f'--nnodes={env.get("NNODES", 1)}',
            f'--node-rank={env.get("NODE_RANK", 0)}',
            f'--master-addr={env.get("MASTER_ADDR", "127.0.0.1")}',
            f'--master-port={env.get("PORT") or free_port()}',
            *passed_on,
            *command,
        ])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(
                f'error: the process of rank {rank} was killed by signal '
                f'{-failure.exitcode} (9 is what a machine out of memory '
                'sends)',
                file=sys.stderr)
            return 128 - failure.exitcode
        return failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == '__main__':
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
