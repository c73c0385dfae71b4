"""Two processes that need not import the stack: forks of the one that tests."""

import multiprocessing
import os
import sys
import traceback

import torch

PATIENCE = 300  # seconds


def run_ranks(target, *args, stderr=None):
    """Call a function as each of two ranks.

    Args:
        target (Callable): Called with the rank, 0 or 1, and ``args``.
        stderr (Path, optional): The file that both write their errors to.

    Returns:
        list[int]: The exit statuses.
    """
    processes = [
        multiprocessing.get_context('fork').Process(
            target=_in_process, args=(target, stderr, rank, *args)
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        # No launcher ends a rank whose other one is gone.
        process.join(PATIENCE)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def _in_process(target, stderr, *args):
    torch.set_num_threads(1)  # GNU's threads do not survive a fork
    if stderr is not None:
        os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.stderr = os.fdopen(2, 'w', buffering=1)
    status = 0
    try:
        target(*args)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status or 0)


def join_by_file(rank, store):
    """Join a process group of two without a port."""
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=2
    )


def train_as_ranks(config, *options, stderr=None):
    """What `tools/train.py CONFIG --launcher pytorch` does in two processes of torchrun's.

    The store is this process's, as torchrun's is torchrun's: it outlives the ranks.

    Returns:
        list[int]: The exit statuses.
    """
    store = torch.distributed.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    return run_ranks(_train, store.port, config, *options, stderr=stderr)


def _train(rank, port, config, *options):
    from poslabel_mm.launch import tools

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
        LOCAL_WORLD_SIZE='2',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE='True',
    )
    sys.argv = ['train.py', str(config), '--launcher', 'pytorch', *map(str, options)]
    tools.train()
