import locale
import os.path as osp

from poslabel_mm.engine.files import write_atomically


def last_saved(work_dir: str) -> str | None:
    """The checkpoint that ``--resume`` would start from.

    Args:
        work_dir (str): A run's work dir.

    Returns:
        str | None: What its ``last_checkpoint`` names; None without one.
    """
    pointer = osp.join(work_dir, 'last_checkpoint')
    if not osp.isfile(pointer):
        return None
    with open(pointer, **_encoding()) as file:
        return file.read().strip() or None


def write_last_saved(checkpoint: str, work_dir: str) -> None:
    """Name a checkpoint in ``last_checkpoint``, all at once.

    Args:
        checkpoint (str): Its path.
        work_dir (str): The run's work dir.
    """
    write_atomically(checkpoint.encode(**_encoding()), osp.join(work_dir, 'last_checkpoint'))


def _encoding() -> dict:
    # MMEngine reads the file in the locale's encoding. A path may hold bytes
    # that are no text in it.
    return dict(encoding=locale.getpreferredencoding(False), errors='surrogateescape')
