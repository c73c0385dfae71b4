"""Where each family of MMPretrain's backbones keeps its patch tokens.

A backbone that returns a (B, C, H, W) feature map, or formats its last tokens
in `_format_output(tokens, grid)`, needs no entry here: most do one or the
other. The rest pool their tokens, or flatten the grid, before they return.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.options import OptionError, whole_number
from poslabel_mm.tokens.labels import GridShape


class TokenSource(NamedTuple):
    """A place in a backbone to read tokens from.

    Attributes:
        tokens (str): Name of the submodule whose output has the tokens, as a
            feature map or as (B, n, C) with any class token first; '' for the
            backbone itself.
        grid (str | tuple[int, int], optional): Name of a submodule whose
            output (or input) shows the patch grid, or the grid where it is
            fixed. None where the tokens' own output shows it.
        channels_last (bool): Whether a feature map is (B, H, W, C).
        normalise (bool): Whether the tokens come before the norm that the
            stock classifier applies to them, or to their mean.
        before (bool): Whether the submodule is given the tokens, rather than
            putting them out.
        num_prefix (int, optional): How many tokens precede the patches'. None
            means that whatever precedes them is passed over.
    """

    tokens: str = ''
    grid: str | GridShape | None = None
    channels_last: bool = False
    normalise: bool = False
    before: bool = False
    num_prefix: int | None = None


class Family(NamedTuple):
    """How to find the tokens of one family.

    Attributes:
        last (callable): From a backbone to its last tokens.
        stages (callable, optional): From a backbone and a stage's number to
            that stage's tokens.
        num_stages (callable, optional): From a backbone to how many it has.
    """

    last: Callable[[nn.Module], TokenSource]
    stages: Callable[[nn.Module, int], TokenSource] | None = None
    num_stages: Callable[[nn.Module], int] | None = None


def _output(backbone: nn.Module) -> TokenSource:
    return TokenSource(
        # A ViT without its final norm has one after pooling, if at all.
        normalise=not getattr(backbone, 'final_norm', True)
    )


def _count(name: str) -> Callable[[nn.Module], int]:
    return lambda backbone: len(backbone.get_submodule(name))


def _modules(name: str, last=_output, **source) -> Family:
    """Stages that return a feature map, or tokens with their grid."""
    return Family(last, lambda _, i: TokenSource(f'{name}.{i}', **source), _count(name))


def _plain(layers: str = 'layers', patches: str = 'patch_embed') -> Family:
    """Plain transformers: every layer is a stage."""
    return _modules(layers, grid=patches)


def _merging(
    name: str, last=_output, grid: Callable[[nn.Module], GridShape | None] = lambda _: None
) -> Family:
    """Stages that may end by merging their tokens for the next one.

    What a stage works on is what it hands to its merging, which activation
    checkpointing leaves out, unlike the stage's last block.

    Args:
        name (str): Name of the list of stages.
        last (callable): From a backbone to its last tokens.
        grid (callable): From a stage to its grid, if its tokens alone do not
            show it.
    """

    def stages(backbone: nn.Module, i: int) -> TokenSource:
        stage = backbone.get_submodule(name)[i]
        if stage.downsample is None:
            return TokenSource(f'{name}.{i}', grid=grid(stage))
        return TokenSource(f'{name}.{i}.downsample', grid=grid(stage), before=True)

    return Family(last, stages, _count(name))


def _last_stage_if_pooled(backbone: nn.Module) -> TokenSource:
    if not backbone.gap_before_final_norm:
        return TokenSource()
    # Outputs come in the order of the stages, whatever that of `out_indices`.
    last = max(backbone.out_indices)
    return TokenSource(
        f'stages.{last}', grid=getattr(backbone.stages[last], 'resolution', None), normalise=True
    )


def _tinyvit_grid(stage: nn.Module) -> GridShape:
    # `resolution` is what the merging leaves.
    merging = stage.downsample
    return tuple(stage.resolution if merging is None else merging.img_size)


def _levit_stage(backbone: nn.Module, i: int) -> TokenSource:
    side = backbone.resolutions[i]
    return TokenSource(f'stages.{i}', grid=(side, side))


def _mixmim_last(backbone: nn.Module) -> TokenSource:
    return TokenSource('norm', grid=tuple(backbone.layers[-1].input_resolution))


def _mvit_stage(backbone: nn.Module, i: int) -> TokenSource:
    last_block = {stage: block for block, stage in backbone.stage_indices.items()}
    return TokenSource(f'blocks.{last_block[i]}')


def _tnt_last(backbone: nn.Module) -> TokenSource:
    pixels = backbone.pixel_embed
    grid = tuple(
        -(-side // stride) // patch
        for side, stride, patch in zip(pixels.img_size, pixels.proj.stride, pixels.new_patch_size)
    )
    return TokenSource('norm', grid=grid)


def _efficientformer_last(backbone: nn.Module) -> TokenSource:
    last = max(backbone.out_indices)
    flat = [name for name, module in backbone.named_modules() if type(module).__name__ == 'Flat']
    if backbone.reshape_last_feat or not flat or last < len(backbone.network) - 1:
        return TokenSource()
    return TokenSource(f'norm{last}', grid=flat[-1])


def _mlp_mixer_last(backbone: nn.Module) -> TokenSource:
    last = max(backbone.out_indices)
    final = last == len(backbone.layers) - 1
    return TokenSource('norm1' if final else f'layers.{last}', grid='patch_embed')


def _timm_last(backbone: nn.Module) -> TokenSource:
    model = backbone.timm_model
    patches = getattr(model, 'patch_embed', None)
    grid = getattr(patches, 'grid_size', None)
    if hasattr(patches, 'dynamic_feat_size'):
        grid = 'timm_model.patch_embed'
    elif grid is not None:
        grid = tuple(grid)
    return TokenSource(
        grid=grid,
        channels_last=getattr(model, 'output_fmt', None) == 'NHWC',
        num_prefix=getattr(model, 'num_prefix_tokens', 0),
    )


FAMILIES: dict[str, Family] = {
    # Plain transformers; their last tokens pass through `_format_output`.
    'VisionTransformer': _plain(),
    'BEiTViT': _plain(),
    'DeiT3': _plain(),
    'T2T_ViT': _plain('encoder', 'tokens_to_token'),
    'XCiT': _plain('xca_layers'),
    'ViTSAM': _modules('layers', channels_last=True),
    # Its layers run without gradient and once more in the backward pass.
    'RevVisionTransformer': Family(_output),
    # Hierarchical ones.
    'SwinTransformer': _merging('stages'),
    # It merges where a stage begins.
    'SwinTransformerV2': _modules('stages'),
    'DaViT': _merging('stages'),
    'PCPVT': Family(
        _output,
        lambda _, i: TokenSource(f'norm_after_stage{i}', grid=f'patch_embeds.{i}'),
        _count('stages'),
    ),
    'MViT': Family(_output, _mvit_stage, lambda b: len(b.stage_indices)),
    'MixMIMTransformer': _merging(
        'layers', _mixmim_last, lambda layer: tuple(layer.input_resolution)
    ),
    'LeViT': Family(_output, _levit_stage, _count('stages')),
    'TinyViT': _merging('stages', _last_stage_if_pooled, _tinyvit_grid),
    'MobileViT': _modules('layers'),
    'EdgeNeXt': _modules('stages', _last_stage_if_pooled),
    # Their stages alternate with the patch embeddings between them.
    'PoolFormer': Family(
        _output, lambda _, i: TokenSource(f'network.{2 * i}'), lambda b: len(b.network) // 2 + 1
    ),
    'RIFormer': Family(
        _output, lambda _, i: TokenSource(f'network.{2 * i}'), lambda b: len(b.network) // 2 + 1
    ),
    'VAN': Family(
        _output,
        lambda _, i: TokenSource(f'norm{i + 1}', grid=f'patch_embed{i + 1}'),
        lambda b: b.num_stages,
    ),
    'EfficientFormer': Family(_efficientformer_last),
    # Only the class token, or a pooled vector, leaves these.
    'TNT': Family(_tnt_last),
    'Conformer': Family(lambda _: TokenSource('trans_norm', grid='trans_patch_conv')),
    'TIMMBackbone': Family(_timm_last),
    # No transformers.
    'MlpMixer': Family(
        _mlp_mixer_last,
        lambda _, i: TokenSource(f'layers.{i}', grid='patch_embed'),
        _count('layers'),
    ),
    'ConvNeXt': _modules('stages', _last_stage_if_pooled),
    'HorNet': _modules('stages', _last_stage_if_pooled),
    'ResNet': Family(
        _output, lambda b, i: TokenSource(b.res_layers[i]), lambda b: len(b.res_layers)
    ),
}


def _class_scores(backbone: nn.Module) -> str | None:
    if getattr(backbone, 'num_classes', -1) > 0:
        return (
            'with num_classes set it returns class scores, one vector an '
            'image; leave num_classes out for its feature map'
        )


def _checkpointed_stages(backbone: nn.Module) -> str | None:
    if backbone.with_cp and backbone.gap_before_final_norm:
        return (
            'with_cp=True runs its stages block by block, out of sight; '
            'set with_cp=False, or gap_before_final_norm=False'
        )


# Why a backbone, as configured, has no patch grid to show.
REASONS: dict[str, Callable[[nn.Module], str | None]] = {
    'AlexNet': _class_scores,
    'LeNet5': _class_scores,
    'VGG': _class_scores,
    'HorNet': _checkpointed_stages,
    'InceptionV3': lambda _: 'it returns class scores, one vector an image',
}


def of_class(backbone: nn.Module, table: dict):
    """A table's entry for a backbone's class or its nearest parent, or None."""
    # By name: subclasses take after their parents, and no backbone has to be
    # imported for its entry.
    for cls in type(backbone).__mro__:
        if cls.__name__ in table:
            return table[cls.__name__]


# What runs a backbone as it is, and the attribute that has it.
WRAPPERS = {'LoRAModel': 'module', 'OptimizedModule': '_orig_mod'}


def unwrapped(backbone: nn.Module) -> nn.Module:
    """The backbone inside of MMPretrain's ``LoRAModel``, or compiled.

    Args:
        backbone (nn.Module): A backbone, wrapped or not.

    Returns:
        nn.Module: The backbone itself.
    """
    while (name := of_class(backbone, WRAPPERS)) is not None:
        backbone = getattr(backbone, name)
    return backbone


def token_source(backbone: nn.Module, stage: int | None = None) -> TokenSource:
    """Where to read the patch tokens of a backbone.

    Args:
        backbone (nn.Module): The backbone.
        stage (int, optional): The stage, counted from 0 (in a plain
            transformer, the layer). Defaults to None, the last tokens.

    Returns:
        TokenSource: The place.

    Raises:
        UserError: If the backbone has no patch grid, no such stage, or no
            stages that can be read.
    """
    name = type(backbone).__name__
    reason = of_class(backbone, REASONS)
    reason = reason and reason(backbone)
    if reason:
        raise UserError(f'{name} exposes no patch grid to a position head: {reason}.')
    family = of_class(backbone, FAMILIES) or Family(_output)
    if stage is None:
        return family.last(backbone)
    if family.stages is None:
        readable = [key for key, value in FAMILIES.items() if value.stages]
        raise OptionError(
            'stage',
            f'={stage}: the stages of {name} cannot be read; leave '
            'out pos_neck.stage for its last tokens, or choose one of '
            f'{", ".join(readable)}',
        )
    count = family.num_stages(backbone)
    if whole_number('stage', stage, least=0) >= count:
        raise OptionError(
            'stage', f'={stage}: {name} has no stage {stage}; choose from 0 to {count - 1}'
        )
    return family.stages(backbone, stage)
