"""Reading a checkpoint file without running code that it may carry."""

import os
import os.path as osp
import re
import stat
import zipfile
from typing import Any

import torch

from poslabel_mm.errors import UserError
from poslabel_mm.stack.safe_loading import allow_plain_values

ZIP = b'PK\x03\x04'
CHUNK = 1 << 20


def read(path: str, map_location: Any = None, mmap: bool = False) -> Any:
    """Load a checkpoint file.

    Args:
        path (str): Path of the file; ``~`` is expanded.
        map_location: As for :func:`torch.load`.
        mmap (bool): Leave tensors on the disk until they are used, where the
            format and the path allow it. Defaults to False.

    Returns:
        Any: What the file holds.

    Raises:
        UserError: If the file does not exist, is damaged or no checkpoint, or
            would run code.
    """
    file = osp.expanduser(path)
    head = _head(path)
    what = _other_kind(head)
    if what is not None:
        raise UserError(f'checkpoint {path} cannot be read: it is {what}')
    # Again: timm, among others, removes the values that it allows too after its own loading.
    allow_plain_values()
    try:
        content = torch.load(
            file,
            map_location=map_location,
            mmap=mmap and head.startswith(ZIP) and _torch_can_map(file),
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        check_records(path)
        raise unreadable(path, error) from error
    keep_grids_of_encodings(content)
    return content


def keep_grids_of_encodings(checkpoint: Any) -> None:
    """Store the patch grid of each loaded positional encoding on the tensor itself.

    Cause: where MMEngine cuts a prefix off the keys of a state dict (``init_cfg``
    with ``prefix``), it makes a new one, without the metadata that holds the
    grids (:mod:`poslabel_mm.models.backbones.encoding_grid`). Remove when it
    keeps them.

    Args:
        checkpoint (Any): What a file holds; changed in place if it is a
            checkpoint that holds the grids of its encodings.
    """
    if not isinstance(checkpoint, dict):
        return
    state_dict = checkpoint.get('state_dict', checkpoint)
    metadata = getattr(state_dict, '_metadata', None)
    for prefix, of_module in metadata.items() if isinstance(metadata, dict) else ():
        grids = of_module.get('grid_shapes') if isinstance(of_module, dict) else None
        for name, grid_shape in grids.items() if isinstance(grids, dict) else ():
            encoding = state_dict.get(f'{prefix}.{name}' if prefix else name)
            if isinstance(encoding, torch.Tensor):
                encoding.grid_shape = grid_shape


def check_records(path: str) -> None:
    """Compare each record of a checkpoint with its checksum.

    The whole file is read once, in small parts. torch.load checks no checksums.

    Args:
        path (str): Path of the file; ``~`` is expanded.

    Raises:
        UserError: If the file does not exist or cannot be read, or a record differs.
    """
    if not _head(path).startswith(ZIP):
        return  # the format of torch before 1.6 has no checksums
    try:
        with zipfile.ZipFile(osp.expanduser(path)) as archive:
            records = archive.infolist()
            if not any(record.CRC for record in records):
                return  # torch was told to write none
            for record in records:
                try:
                    with archive.open(record) as stored:
                        while stored.read(CHUNK):
                            pass
                except (zipfile.BadZipFile, EOFError):
                    raise UserError(
                        f'checkpoint {path} is damaged: its record '
                        f'{record.filename} differs from its checksum'
                    ) from None
    except (zipfile.BadZipFile, NotImplementedError):
        return  # for torch.load to judge


def unreadable(name: str, error: Exception) -> UserError:
    """Make the error that says why :func:`torch.load` could not read a checkpoint.

    Args:
        name (str): The checkpoint's path or address.
        error (Exception): What torch.load raised. Its own text often advises
            to load the file unsafely.
    """
    text = str(error)
    code = re.search(
        r'GLOBAL (\S+)|unrecognized function (.+)|'
        r'allowlisted .*but got (.+)',
        text,
    )
    if code:
        held = next(filter(None, code.groups())).rstrip('. ')
        return UserError(
            f'checkpoint {name} refused: it holds {held}, which could run '
            'code; only weights and plain values are read'
        )
    if 'TorchScript' in text:
        return UserError(
            f'checkpoint {name} refused: it is a TorchScript program; save its state_dict instead'
        )
    if text.startswith('Attempting to deserialize object on'):
        return UserError(
            f'checkpoint {name} holds tensors of a device that '
            "is not here: load it with map_location='cpu'"
        )
    reason = getattr(error, 'strerror', None)
    return UserError(
        f'checkpoint {name} cannot be read: '
        + (reason or 'it is damaged, or no checkpoint of PyTorch')
    )


def _head(path: str) -> bytes:
    """The first bytes of a file. If the path is no readable file, the error says what it is."""
    file = osp.expanduser(path)
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError):
        raise UserError(f'checkpoint {path} does not exist') from None
    if stat.S_ISDIR(mode):
        raise UserError(
            f'checkpoint {path} is a folder, such as of a sharded '
            'checkpoint: name one file that holds all weights, as '
            "FSDPStrategy saves with state_dict_cfg='full'"
        )
    if not stat.S_ISREG(mode):
        kind = (
            'a named pipe (FIFO)'
            if stat.S_ISFIFO(mode)
            else ('a socket' if stat.S_ISSOCK(mode) else 'a device')
        )
        raise UserError(f'checkpoint {path} is {kind}, not a file')
    try:
        with open(file, 'rb') as opened:
            return opened.read(512)
    except OSError as error:
        raise UserError(f'checkpoint {path} cannot be read: {error.strerror}') from error


def _other_kind(head: bytes) -> str | None:
    """The kind of a file that is no checkpoint, told by its first bytes; None if it may be one."""
    if not head:
        return 'empty'
    if not head.strip(b'\x00'):
        return 'damaged, it begins with zeros alone'
    if head[257:262] == b'ustar':
        return (
            'a .tar archive, as of torch before 0.1.10, which could run '
            'code: save its weights again with a later torch'
        )
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 1 << 32:
        return (
            'a safetensors file: `poslabel import FILE --from timm, hf or another '
            '--to CONFIG` makes a checkpoint of it'
        )
    line = head.splitlines()[0][:40]
    if all(32 <= byte or byte in b'\t\r\n\f' for byte in head) and head[:1] < b'\x7f':
        return f'text ({line.decode("utf-8", "replace").strip()!r} ...)'
    return None


def _torch_can_map(file: str) -> bool:
    # torch opens a file to map it by the UTF-8 of its path.
    try:
        return file.encode() == os.fsencode(file)
    except UnicodeEncodeError:
        return False
