"""Names of a ViT's weights in Hugging Face's transformers."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from poslabel_mm.interop.key_map import KeyMap

_LAYER = 'vit.encoder.layer.{i}'

#: The layout of files; queries, keys and values are apart, as :func:`split_qkv` has them.
HUGGING_FACE_VIT = KeyMap(
    {
        'backbone.cls_token': 'vit.embeddings.cls_token',
        'backbone.dist_token': 'vit.embeddings.distillation_token',
        'backbone.pos_embed': 'vit.embeddings.position_embeddings',
        'backbone.patch_embed.projection': 'vit.embeddings.patch_embeddings.projection',
        'backbone.layers.{i}.ln1': f'{_LAYER}.layernorm_before',
        'backbone.layers.{i}.attn.q': f'{_LAYER}.attention.attention.query',
        'backbone.layers.{i}.attn.k': f'{_LAYER}.attention.attention.key',
        'backbone.layers.{i}.attn.v': f'{_LAYER}.attention.attention.value',
        'backbone.layers.{i}.attn.proj': f'{_LAYER}.attention.output.dense',
        'backbone.layers.{i}.ln2': f'{_LAYER}.layernorm_after',
        'backbone.layers.{i}.ffn.layers.0.0': f'{_LAYER}.intermediate.dense',
        'backbone.layers.{i}.ffn.layers.1': f'{_LAYER}.output.dense',
        'backbone.ln1': 'vit.layernorm',
    }
)

#: DINOv2's, whose names are those of a ViT but for the parts of a layer.
HUGGING_FACE_DINOV2 = HUGGING_FACE_VIT | {
    'backbone.layers.{i}.ln1': f'{_LAYER}.norm1',
    'backbone.layers.{i}.attn.gamma1.weight': f'{_LAYER}.layer_scale1.lambda1',
    'backbone.layers.{i}.ln2': f'{_LAYER}.norm2',
    'backbone.layers.{i}.ffn.layers.0.0': f'{_LAYER}.mlp.fc1',
    'backbone.layers.{i}.ffn.layers.1': f'{_LAYER}.mlp.fc2',
    'backbone.layers.{i}.ffn.w12': f'{_LAYER}.mlp.weights_in',
    'backbone.layers.{i}.ffn.w3': f'{_LAYER}.mlp.weights_out',
    'backbone.layers.{i}.ffn.gamma2.weight': f'{_LAYER}.layer_scale2.lambda1',
}

#: The prefixes of the ViT in models around it; those without one are given the first.
HUGGING_FACE_PREFIXES = 'vit', 'deit', 'dinov2', 'dinov2_with_registers'

HUGGING_FACE_HEADS = {'head.layers.head': 'classifier', 'head.fc': 'classifier'}


def split_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take each linear layer ``qkv`` apart into ``q``, ``k`` and ``v``.

    Args:
        weights (Mapping[str, Tensor]): Weights by MMPretrain's names.
    """
    parts: dict[str, Tensor] = {}
    for name, value in weights.items():
        start, found, end = name.partition('.attn.qkv.')
        if not found:
            parts[name] = value
            continue
        for letter, part in zip('qkv', value.chunk(3)):
            parts[f'{start}.attn.{letter}.{end}'] = part.clone()
    return parts


def join_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`split_qkv`; a part without the two others stays as it is."""
    joined: dict[str, Tensor] = {}
    for name, value in weights.items():
        match = re.fullmatch(r'(.*\.attn\.)[qkv](\.\w+)', name)
        names = [f'{match[1]}{letter}{match[2]}' for letter in 'qkv'] if match else []
        if not match:
            joined[name] = value
        elif all(part in weights for part in names):
            whole = f'{match[1]}qkv{match[2]}'
            if whole not in joined:
                joined[whole] = torch.cat([weights[part] for part in names])
        else:
            joined[name] = value
    return joined
