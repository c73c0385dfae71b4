"""Names of Swin's weights: MMPretrain's, those of its own code, and timm's."""

from collections.abc import Mapping

import torch
from torch import Tensor

from poslabel_mm.interop.key_map import KeyMap

_COMMON = {
    'backbone.patch_embed.projection': 'patch_embed.proj',
    'backbone.patch_embed.norm': 'patch_embed.norm',
    'backbone.stages.{i}.blocks.{j}.norm1': 'layers.{i}.blocks.{j}.norm1',
    'backbone.stages.{i}.blocks.{j}.attn.w_msa.relative_position_bias_table': (
        'layers.{i}.blocks.{j}.attn.relative_position_bias_table'
    ),
    'backbone.stages.{i}.blocks.{j}.attn.w_msa.qkv': 'layers.{i}.blocks.{j}.attn.qkv',
    'backbone.stages.{i}.blocks.{j}.attn.w_msa.proj': 'layers.{i}.blocks.{j}.attn.proj',
    'backbone.stages.{i}.blocks.{j}.norm2': 'layers.{i}.blocks.{j}.norm2',
    'backbone.stages.{i}.blocks.{j}.ffn.layers.0.0': 'layers.{i}.blocks.{j}.mlp.fc1',
    'backbone.stages.{i}.blocks.{j}.ffn.layers.1': 'layers.{i}.blocks.{j}.mlp.fc2',
}


def official_swin(last_stage: int) -> KeyMap:
    """The layout of Swin's own code, also timm's before 0.9.

    Args:
        last_stage (int): MMPretrain numbers the norm of each stage that is put out.
    """
    return KeyMap(
        {
            **_COMMON,
            'backbone.absolute_pos_embed': 'absolute_pos_embed',
            'backbone.stages.{i}.downsample.norm': 'layers.{i}.downsample.norm',
            'backbone.stages.{i}.downsample.reduction': 'layers.{i}.downsample.reduction',
            f'backbone.norm{last_stage}': 'norm',
            'head.fc': 'head',
        }
    )


def timm_swin(last_stage: int) -> KeyMap:
    """timm's layout: a stage begins with the merging that MMPretrain's ends with.

    Args:
        last_stage (int): As of :func:`official_swin`.
    """
    return KeyMap(
        {
            **_COMMON,
            'backbone.stages.{i}.downsample.norm': 'layers.{i+1}.downsample.norm',
            'backbone.stages.{i}.downsample.reduction': 'layers.{i+1}.downsample.reduction',
            f'backbone.norm{last_stage}': 'norm',
            'head.fc': 'head.fc',
        }
    )


def merging_to_theirs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Order the inputs of patch mergings as Swin's own code does.

    MMPretrain unfolds the 2×2 patches: channel by channel, row by row. The others concatenate
    the patches, column by column, each with all of its channels.

    Args:
        weights (Mapping[str, Tensor]): Weights by MMPretrain's names.
    """
    return {name: _ordered(name, value, to_theirs=True) for name, value in weights.items()}


def merging_to_ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`merging_to_theirs`, by MMPretrain's names too."""
    return {name: _ordered(name, value, to_theirs=False) for name, value in weights.items()}


def _ordered(name: str, value: Tensor, to_theirs: bool) -> Tensor:
    if '.downsample.' not in name or value.shape[-1] % 4:
        return value
    C = value.shape[-1] // 4
    # Places of MMPretrain's channels in the others': [C, row, column] -> [column, row, C]
    order = torch.arange(4 * C).view(C, 2, 2).permute(2, 1, 0).flatten()
    return value[..., order if to_theirs else order.argsort()].contiguous()
