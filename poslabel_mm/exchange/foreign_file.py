"""Reading another library's weights, without running code that a file may carry."""

import os.path as osp
import re
from glob import escape, glob

import torch
from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.exchange.packages import check_packages
from poslabel_mm.launch.checks.foreign_keys import CONTAINERS
from poslabel_mm.launch.checks.opened_checkpoint import is_url, open_checkpoint

# In the order in which they are looked for in a folder of Hugging Face.
FOLDER_FILES = ('model.safetensors', 'model-*-of-*.safetensors', 'pytorch_model.bin')


def read_weights(path: str) -> dict[str, Tensor]:
    """The weights of a file or folder by their names.

    Args:
        path (str): A checkpoint of PyTorch, a safetensors file, or a folder of Hugging Face.

    Returns:
        dict[str, Tensor]: Without the prefixes that wrappers put in front of all names.

    Raises:
        UserError: If there is no such file, or it holds no weights.
    """
    if is_url(path):
        raise UserError(f'{path} is an address: download the file first')
    weights: dict[str, Tensor] = {}
    for file in _files(path):
        weights |= _read_safetensors(file) if is_safetensors(file) else _read_checkpoint(file)
    weights = {
        # As training scripts save them: of several processes, compiled, or as a part.
        re.sub(
            r'^(module\.|_orig_mod\.)*(backbone\.(?=blocks\.|cls_token|pos_embed|mask_token'
            r'|register_tokens|patch_embed\.|norm\.))?',
            '',
            name,
        ): value
        for name, value in weights.items()
        if isinstance(value, Tensor)
    }
    if not weights:
        raise UserError(f'{path} holds no weights')
    return weights


def is_safetensors(path: str) -> bool:
    """Whether a file is of the safetensors format, by its first bytes."""
    try:
        with open(osp.expanduser(path), 'rb') as file:
            head = file.read(9)
    except OSError:
        return False
    return head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 1 << 32


def _files(path: str) -> list[str]:
    folder = osp.expanduser(path)
    if not osp.isdir(folder):
        return [path]
    for pattern in FOLDER_FILES:
        found = sorted(glob(osp.join(escape(folder), pattern)))
        if found:
            return found
    raise UserError(f'folder {path} has no model.safetensors, and no pytorch_model.bin')


def _read_safetensors(path: str) -> dict[str, Tensor]:
    check_packages(f'{path}, a safetensors file,', 'safetensors')
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(osp.expanduser(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error


def _read_checkpoint(path: str) -> dict:
    content = open_checkpoint(path).content
    for name in 'state_dict', *CONTAINERS:
        inner = content.get(name)
        if isinstance(inner, dict) and any(isinstance(v, torch.Tensor) for v in inner.values()):
            return inner
    return content
