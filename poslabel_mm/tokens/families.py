"""Where each family of MMPretrain's backbones keeps its patch tokens, and in which form.

A backbone that returns a (B, C, H, W) feature map, or formats its last tokens in
`_format_output(tokens, grid)`, needs no entry here: most do one or the other. The rest pool their
tokens, or flatten the grid, before they return. The forms are in
:mod:`poslabel_mm.tokens.sources`.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.options import whole_number, wrong
from poslabel_mm.tokens.gridless import check_has_grid
from poslabel_mm.tokens.labels import GridShape
from poslabel_mm.tokens.sources import (
    GridSource,
    TokenReader,
    TokenSource,
    channels_last_map,
    channels_last_map_or_tokens,
    feature_map,
    grid_of_input_map,
    grid_of_output_map,
    map_or_tokens,
    timm_dynamic_grid,
    tokens_on_grid,
    tokens_with_grid,
)
from poslabel_mm.tokens.wrappers import by_class, library


class Family(NamedTuple):
    """How to find the tokens of one family.

    Attributes:
        last (callable): From a backbone to the source of its last tokens.
        stages (callable, optional): From a backbone and a stage's number to the source of that
            stage's tokens.
        num_stages (callable, optional): From a backbone to the number of its stages.
    """

    last: Callable[[nn.Module], TokenSource]
    stages: Callable[[nn.Module, int], TokenSource] | None = None
    num_stages: Callable[[nn.Module], int] | None = None


def _output(backbone: nn.Module) -> TokenSource:
    # A ViT without its final norm has one after pooling, if at all.
    return TokenSource(normalise=not getattr(backbone, 'final_norm', True))


def _count(name: str) -> Callable[[nn.Module], int]:
    return lambda backbone: len(backbone.get_submodule(name))


def _modules(name: str, read: TokenReader, grid: GridSource | None = None, last=_output) -> Family:
    """Every module of the list `name` is a stage."""
    return Family(last, lambda _, i: TokenSource(f'{name}.{i}', read, grid), _count(name))


def _plain(layers: str = 'layers', patches: str = 'patch_embed', last=_output) -> Family:
    """Plain transformers: every layer is a stage, all of one grid."""
    return _modules(layers, tokens_on_grid, GridSource(patches), last)


# ---------------------------------------------------- stages that merge tokens for the next one


def _before_merging(
    backbone: nn.Module, name: str, read: TokenReader, grid: GridShape | None = None
) -> TokenSource:
    """The tokens that the stage `name` works on, and not those that it merges them into.

    They are what it hands to its merging, which activation checkpointing leaves out, unlike the
    stage's last block.
    """
    if backbone.get_submodule(name).downsample is None:
        return TokenSource(name, read, grid)
    return TokenSource(f'{name}.downsample', read, grid, before=True)


def _swin_stage(backbone: nn.Module, i: int) -> TokenSource:
    return _before_merging(backbone, f'stages.{i}', tokens_with_grid)


def _mixmim_stage(backbone: nn.Module, i: int) -> TokenSource:
    stage = backbone.layers[i]
    if stage.downsample is None:  # the last one
        return TokenSource(f'layers.{i}', tokens_on_grid, tuple(stage.input_resolution))
    return _before_merging(backbone, f'layers.{i}', tokens_with_grid)


def _mixmim_last(backbone: nn.Module) -> TokenSource:
    return TokenSource('norm', tokens_on_grid, tuple(backbone.layers[-1].input_resolution))


def _tinyvit_stage(backbone: nn.Module, i: int) -> TokenSource:
    if i == 0:  # convolutions
        return _before_merging(backbone, 'stages.0', feature_map)
    # `resolution` is what the merging leaves.
    stage = backbone.stages[i]
    grid = stage.resolution if stage.downsample is None else stage.downsample.img_size
    return _before_merging(backbone, f'stages.{i}', tokens_on_grid, tuple(grid))


def _tinyvit_last(backbone: nn.Module) -> TokenSource:
    if not backbone.gap_before_final_norm:
        return TokenSource()
    last = _last_output(backbone)
    grid = backbone.stages[last].resolution
    return TokenSource(f'stages.{last}', tokens_on_grid, grid, normalise=True)


# ------------------------------------------------------------------------------- other families


def _last_output(backbone: nn.Module) -> int:
    # Outputs come in the order of the stages, whatever that of `out_indices`.
    return max(backbone.out_indices)


def _last_map_if_pooled(backbone: nn.Module) -> TokenSource:
    if not backbone.gap_before_final_norm:
        return TokenSource()
    return TokenSource(f'stages.{_last_output(backbone)}', feature_map, normalise=True)


def _twins_stage(_backbone: nn.Module, i: int) -> TokenSource:
    return TokenSource(f'norm_after_stage{i}', tokens_on_grid, GridSource(f'patch_embeds.{i}'))


def _mvit_stage(backbone: nn.Module, i: int) -> TokenSource:
    last_block = {stage: block for block, stage in backbone.stage_indices.items()}
    return TokenSource(f'blocks.{last_block[i]}', tokens_with_grid)


def _levit_stage(backbone: nn.Module, i: int) -> TokenSource:
    side = backbone.resolutions[i]
    return TokenSource(f'stages.{i}', tokens_on_grid, (side, side))


# Their stages alternate with the patch embeddings between them.
_POOLFORMER = Family(
    _output,
    lambda _, i: TokenSource(f'network.{2 * i}', feature_map),
    lambda backbone: len(backbone.network) // 2 + 1,
)


def _van_stage(_backbone: nn.Module, i: int) -> TokenSource:
    return TokenSource(f'norm{i + 1}', tokens_on_grid, GridSource(f'patch_embed{i + 1}'))


def _efficientformer_last(backbone: nn.Module) -> TokenSource:
    last = _last_output(backbone)
    flat = [name for name, module in backbone.named_modules() if type(module).__name__ == 'Flat']
    if backbone.reshape_last_feat or not flat or last < len(backbone.network) - 1:
        return TokenSource()
    return TokenSource(f'norm{last}', tokens_on_grid, GridSource(flat[-1], grid_of_input_map))


def _tnt_last(backbone: nn.Module) -> TokenSource:
    pixels = backbone.pixel_embed
    grid = tuple(
        -(-side // stride) // patch
        for side, stride, patch in zip(pixels.img_size, pixels.proj.stride, pixels.new_patch_size)
    )
    return TokenSource('norm', tokens_on_grid, grid)


def _conformer_last(_backbone: nn.Module) -> TokenSource:
    grid = GridSource('trans_patch_conv', grid_of_output_map)
    return TokenSource('trans_norm', tokens_on_grid, grid)


def _mlp_mixer_last(backbone: nn.Module) -> TokenSource:
    last = _last_output(backbone)
    tokens = 'norm1' if last == len(backbone.layers) - 1 else f'layers.{last}'
    return TokenSource(tokens, tokens_on_grid, GridSource('patch_embed'))


def _timm_grid(model: nn.Module, prefix: str = '') -> GridSource | GridShape | None:
    patches = getattr(model, 'patch_embed', None)
    if hasattr(patches, 'dynamic_feat_size'):
        return GridSource(f'{prefix}patch_embed', timm_dynamic_grid)
    grid = getattr(patches, 'grid_size', None)
    return None if grid is None else tuple(grid)


def _timm_last(backbone: nn.Module) -> TokenSource:
    model = backbone.timm_model
    return TokenSource(
        read=channels_last_map if getattr(model, 'output_fmt', None) == 'NHWC' else map_or_tokens,
        grid=_timm_grid(model, 'timm_model.'),
        num_prefix=getattr(model, 'num_prefix_tokens', 0),
    )


# ------------------------------------------- classifiers of other libraries, which return scores


def _timm_classifier(model: nn.Module) -> TokenSource:
    norm = getattr(model, 'norm', None)
    if not isinstance(norm, nn.Module):
        raise UserError(
            f"timm's {type(model).__name__} has no module `norm` that shows its last tokens: take "
            'its tokens (B, n, C) yourself and hand the heads PatchTokens(tokens, (H, W))'
        )
    return TokenSource(
        'norm',
        feature_map if type(norm).__name__.endswith('2d') else channels_last_map_or_tokens,
        _timm_grid(model),
        # One that averages its tokens normalises the mean.
        normalise=isinstance(norm, nn.Identity),
        num_prefix=getattr(model, 'num_prefix_tokens', 0),
    )


def _torchvision_vit(_model: nn.Module) -> TokenSource:
    grid = GridSource('conv_proj', grid_of_output_map)
    return TokenSource('encoder.ln', tokens_on_grid, grid, num_prefix=1)


def _torchvision_swin(_model: nn.Module) -> TokenSource:
    return TokenSource('norm', channels_last_map)


TORCHVISION = {
    'VisionTransformer': Family(_torchvision_vit),
    'SwinTransformer': Family(_torchvision_swin),
}


def _family(backbone: nn.Module) -> Family:
    if (name := library(backbone)) == 'timm':
        return Family(_timm_classifier)
    table = TORCHVISION if name == 'torchvision' else FAMILIES
    return by_class(backbone, table) or Family(_output)


FAMILIES: dict[str, Family] = {
    # Plain transformers; their last tokens pass through `_format_output`.
    'VisionTransformer': _plain(),
    'BEiTViT': _plain(),
    'DeiT3': _plain(),
    'T2T_ViT': _plain('encoder', 'tokens_to_token'),
    'XCiT': _plain('xca_layers'),
    'ViTSAM': _modules('layers', channels_last_map),
    # Its layers run without gradient and once more in the backward pass.
    'RevVisionTransformer': Family(_output),
    # Hierarchical ones.
    'SwinTransformer': Family(_output, _swin_stage, _count('stages')),
    # It merges where a stage begins.
    'SwinTransformerV2': _modules('stages', tokens_with_grid),
    'DaViT': Family(_output, _swin_stage, _count('stages')),
    'PCPVT': Family(_output, _twins_stage, _count('stages')),
    'MViT': Family(_output, _mvit_stage, lambda backbone: len(backbone.stage_indices)),
    'MixMIMTransformer': Family(_mixmim_last, _mixmim_stage, _count('layers')),
    'LeViT': Family(_output, _levit_stage, _count('stages')),
    'TinyViT': Family(_tinyvit_last, _tinyvit_stage, _count('stages')),
    'MobileViT': _modules('layers', feature_map),
    'EdgeNeXt': _modules('stages', feature_map, last=_last_map_if_pooled),
    'PoolFormer': _POOLFORMER,
    'RIFormer': _POOLFORMER,
    'VAN': Family(_output, _van_stage, lambda backbone: backbone.num_stages),
    'EfficientFormer': Family(_efficientformer_last),
    # Only the class token, or a pooled vector, leaves these.
    'TNT': Family(_tnt_last),
    'Conformer': Family(_conformer_last),
    'TIMMBackbone': Family(_timm_last),
    # No transformers.
    'MlpMixer': _plain(last=_mlp_mixer_last),
    'ConvNeXt': _modules('stages', feature_map, last=_last_map_if_pooled),
    'HorNet': _modules('stages', feature_map, last=_last_map_if_pooled),
    'ResNet': Family(
        _output,
        lambda backbone, i: TokenSource(backbone.res_layers[i], feature_map),
        lambda backbone: len(backbone.res_layers),
    ),
}


def num_stages(backbone: nn.Module) -> int:
    """How many stages of a backbone can be read (in a plain transformer, layers).

    Args:
        backbone (nn.Module): The backbone, not wrapped.

    Returns:
        int: 0 where the last tokens alone can be read.
    """
    family = by_class(backbone, FAMILIES)
    return 0 if family is None or family.stages is None else family.num_stages(backbone)


def token_source(backbone: nn.Module, stage: int | None = None) -> TokenSource:
    """Where to read the patch tokens of a backbone, and in which form they are.

    Args:
        backbone (nn.Module): The backbone.
        stage (int, optional): The stage, counted from 0 (in a plain transformer, the layer).
            Defaults to None, the last tokens.

    Returns:
        TokenSource: The place and the reader of its form.

    Raises:
        UserError: If the backbone has no patch grid, no such stage, or no stages that can be read.
    """
    check_has_grid(backbone)
    name = type(backbone).__name__
    family = _family(backbone)
    if stage is None:
        return family.last(backbone)
    if family.stages is None:
        readable = [key for key, value in FAMILIES.items() if value.stages]
        raise wrong(
            'stage',
            stage,
            f'is refused: the stages of {name} cannot be read; leave out pos_neck.stage for its '
            f'last tokens, or choose one of {", ".join(readable)}',
        )
    count = family.num_stages(backbone)
    if whole_number('stage', stage, least=0) >= count:
        raise wrong(
            'stage', stage, f'is refused: {name} has no such stage; choose from 0 to {count - 1}'
        )
    return family.stages(backbone, stage)
