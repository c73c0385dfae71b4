"""The code that wrote a checkpoint, recognised by the names of its weights."""

import re
from typing import Any

from torch import Tensor

# Other code stores a model's weights under one of these keys; MMEngine reads
# `state_dict` alone.
CONTAINERS = (
    'model',
    'teacher',
    'student',
    'module',
    'net',
    'model_state',
    'model_state_dict',
    'weights',
)

# What `poslabel import` calls the layouts that it reads.
LAYOUTS = {
    'a Hugging Face model': 'hf',
    "MAE's own code": 'mae',
    'DINOv2': 'dinov2',
    "DeiT's own code": 'deit',
    "Swin's own code": 'swin',
    'timm': 'timm',
}

# The patterns that identify a layout; all of them have to occur.
HUGGING_FACE = (r'(\w+\.)?encoder\.layer\.\d+\.attention\.attention\.query\.',)
TORCHVISION = (r'encoder\.layers\.encoder_layer_\d+\.',)
MOCO = (r'(base|momentum)_encoder\.',)
MAE = (r'decoder_blocks\.\d+\.', r'decoder_embed\.')
VIT = (r'blocks\.(\d+\.)+attn\.qkv\.', r'cls_token$')
DINOV2 = (*VIT, r'blocks\.(\d+\.)+ls1\.gamma$', r'mask_token$')
SWIN = (r'layers\.\d+\.blocks\.\d+\.attn\.qkv\.',)


def whose_keys(content: dict) -> str | None:
    """Recognise by its keys a checkpoint that is not MMPretrain's.

    Args:
        content (dict): The content of the file.

    Returns:
        str | None: The end of a sentence, or None where nothing is recognised.
    """
    place = next(
        (name for name in ('state_dict', *CONTAINERS) if isinstance(content.get(name), dict)), None
    )
    weights = content if place is None else content[place]
    names = [
        re.sub(r'^(module\.)?(backbone\.(?=blocks\.|cls_token|mask_token))?', '', name)
        for name in weights
        if isinstance(name, str)
    ]
    owner = _owner(names, place)
    parts = [f'its keys are those of {owner}'] if owner else []
    if place in CONTAINERS and _is_weights(weights):
        parts.append(f'its weights lie below {place!r}, where MMEngine does not look')
    line = ', and '.join(parts)
    if owner in LAYOUTS:
        line += f': `poslabel import FILE --from {LAYOUTS[owner]} --to CONFIG` translates them'
    return line or None


def _owner(names: list[str], place: str | None) -> str | None:

    def have(patterns: tuple[str, ...]) -> bool:
        return all(any(re.match(p, name) for name in names) for p in patterns)

    if have(HUGGING_FACE):
        return 'a Hugging Face model'
    if have(TORCHVISION):
        return 'torchvision'
    if have(MOCO):
        return "MoCo's own code"
    if have(MAE):
        return "MAE's own code"
    if have(DINOV2):
        return 'DINOv2'
    if have(VIT):
        if have((r'(dist_token|head_dist\.)',)) or place == 'model' and have((r'head\.',)):
            return "DeiT's own code"
        return "MAE's own code" if place == 'model' else 'timm'
    if have(SWIN):
        return "Swin's own code" if place == 'model' else 'timm'
    return None


def _is_weights(node: Any) -> bool:
    return isinstance(node, dict) and any(isinstance(value, Tensor) for value in node.values())
