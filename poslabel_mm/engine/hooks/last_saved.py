import os.path as osp
from typing import Optional


def last_saved(work_dir: str) -> Optional[str]:
    """The checkpoint that ``--resume`` would start from.

    Args:
        work_dir (str): A run's work dir.

    Returns:
        str | None: What its ``last_checkpoint`` names; None without one.
    """
    pointer = osp.join(work_dir, 'last_checkpoint')
    if not osp.isfile(pointer):
        return None
    with open(pointer) as file:
        return file.read().strip() or None
