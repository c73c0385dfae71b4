"""The shared memory that a loader's workers pass batches through."""

import os
import re

#: Bytes for eight processes that train, each with five workers and ten batches of 64 images ahead.
ENOUGH = 2**30
#: How a container gets more than the 64 MiB that Docker gives it.
MORE = 'docker run --shm-size=8g, or --ipc=host'

_FULL = re.compile(r'unable to (allocate shared memory|write to file </torch_)')
_KILLED = re.compile(r'DataLoader worker .* is killed by signal: Bus error')


def shared_memory() -> int | None:
    """Bytes of the shared memory; None if the system does not say."""
    try:
        status = os.statvfs('/dev/shm')
    except (AttributeError, OSError):  # Windows, macOS
        return None
    return status.f_blocks * status.f_frsize


def is_full(error: BaseException) -> bool:
    """Whether an error is torch's, that there is no room in the shared memory."""
    return isinstance(error, RuntimeError) and bool(_FULL.search(str(error)))


def shared_memory_line(error: BaseException) -> str | None:
    """One line for an error of a loader whose workers found no room in the shared memory.

    Args:
        error (BaseException): The error that ended a tool.

    Returns:
        str | None: Cause and way out; None if it is another error.
    """
    size = shared_memory()
    if size is None or not isinstance(error, RuntimeError):
        return None
    if is_full(error):
        problem = 'the workers of the data loader need'
    elif _KILLED.search(f'{error}{error.__cause__}'):  # the cause, where torch raises once more
        # An access past the end of a mapped file has the same signal.
        problem = 'a worker of the data loader was killed by a bus error; most often it needs'
    else:
        return None
    if size < ENOUGH:
        rest = f'the {size >> 20} MiB of /dev/shm: give the container more ({MORE})'
    else:
        rest = (
            f'was free of the {size >> 20} MiB of /dev/shm: remove what ended processes have left '
            'there'
        )
    return (
        f'{problem} more shared memory than {rest}, or set a smaller num_workers of the '
        'dataloaders; 0 needs none'
    )
