"""Reading another library's weights, without running code that a file may carry."""

import os.path as osp
import re
from glob import escape, glob

from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.interop.packages import check_packages
from poslabel_mm.launch.checks.foreign_keys import CONTAINERS
from poslabel_mm.launch.checks.opened_checkpoint import is_url, open_checkpoint

# In the order in which they are looked for in a folder of Hugging Face.
FOLDER_FILES = ('model.safetensors', 'model-*-of-*.safetensors', 'pytorch_model.bin')


def read_weights(path: str) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of a file or folder by their names, and what else the user has to know.

    Args:
        path (str): A checkpoint of PyTorch, a safetensors file, or a folder of Hugging Face.

    Returns:
        tuple[dict[str, Tensor], list[str]]: Without the prefixes that wrappers put in front of
            all names; and a note where a file holds weights under several keys.

    Raises:
        UserError: If there is no such file, or it holds no weights.
    """
    if is_url(path):
        raise UserError(f'{path} is an address: download the file first')
    weights: dict[str, Tensor] = {}
    notes: list[str] = []
    for file in _files(path):
        if is_safetensors(file):
            weights |= _read_safetensors(file)
        else:
            inner, of_file = _read_checkpoint(file)
            weights |= inner
            notes += of_file
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
    return weights, notes


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


def _read_checkpoint(path: str) -> tuple[dict, list[str]]:
    """The weights of a checkpoint, and under which of its keys they were found."""
    content = open_checkpoint(path).content
    found = [name for name, inner in content.items() if _holds_tensors(inner)]
    name = next((name for name in ('state_dict', *CONTAINERS) if name in found), None)
    if name is None:
        if found and not _holds_tensors(content):
            raise UserError(
                f'{path} has weights under {_listed(found)} alone: save one of them as a file of '
                'its own'
            )
        return content, []
    others = [other for other in found if other != name]
    if not others:
        return content[name], []
    return content[name], [
        f'the weights under {name!r} are read, and those under {_listed(others)} are not: to '
        'import them, save them as a file of their own'
    ]


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values())


def _listed(names: list[str]) -> str:
    return ', '.join(map(repr, names))
