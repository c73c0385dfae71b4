"""What Hugging Face's ``config.json`` tells of a ViT and its weights cannot."""

import json
import os.path as osp

from torch import nn

from poslabel_mm.errors import UserError

# What a config.json that leaves them out means.
DEFAULTS = dict(num_attention_heads=12, hidden_act='gelu', layer_norm_eps=1e-12)
DINOV2_DEFAULTS = DEFAULTS | dict(layer_norm_eps=1e-6)


def read_hugging_face_config(path: str) -> dict | None:
    """The ``config.json`` of a folder, or beside a file of weights.

    Args:
        path (str): The folder or the file.

    Returns:
        dict | None: None if there is none.

    Raises:
        UserError: If it cannot be read.
    """
    path = osp.expanduser(path)
    file = osp.join(path if osp.isdir(path) else osp.dirname(path), 'config.json')
    if not osp.isfile(file):
        return None
    try:
        with open(file, encoding='utf-8') as opened:
            config = json.load(opened)
    except (OSError, ValueError) as error:
        raise UserError(f'{file} cannot be read: {error}') from error
    if not isinstance(config, dict):
        raise UserError(f'{file} is not a config of Hugging Face')
    if 'hidden_size' not in config:
        return None  # other libraries have files of that name too
    is_dinov2 = str(config.get('model_type')).startswith('dinov2')
    return (DINOV2_DEFAULTS if is_dinov2 else DEFAULTS) | config


def compare_with_config(config: dict | None, backbone: nn.Module, path: str) -> list[str]:
    """Compare a ViT with what a file's ``config.json`` tells, or name what has to be assumed.

    Args:
        config (dict, optional): From :func:`read_hugging_face_config`.
        backbone (nn.Module): The config's ViT.
        path (str): The file of weights, for errors.

    Returns:
        list[str]: What the user has to know.

    Raises:
        UserError: If the number of heads or the activation differs.
    """
    layer = backbone.layers[0]
    heads, epsilon = layer.attn.num_heads, layer.ln1.eps
    if config is None:
        return [
            f'{path} does not tell the number of attention heads: {heads} are assumed, as the '
            f'config has them, and {epsilon:g} as epsilon of the norms'
        ]
    if config['num_attention_heads'] != heads:
        raise UserError(
            f'the config.json of {path} has {config["num_attention_heads"]} attention heads, and '
            f'the config {heads}: set num_heads in model.backbone.arch'
        )
    activations = [type(m).__name__.lower() for m in layer.ffn.modules() if _is_activation(m)]
    # SwiGLU has an activation of its own, which is no option.
    if activations and config['hidden_act'] not in activations:
        raise UserError(
            f'the config.json of {path} has hidden_act={config["hidden_act"]!r}, and the config '
            f'{" and ".join(activations)}'
        )
    if config['layer_norm_eps'] == epsilon:
        return []
    return [
        f'the norms were trained with epsilon {config["layer_norm_eps"]:g}, and the config has '
        f'{epsilon:g}: --cfg-options model.backbone.norm_cfg.type=LN '
        f'model.backbone.norm_cfg.eps={config["layer_norm_eps"]:g} computes the same'
    ]


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == 'torch.nn.modules.activation'
