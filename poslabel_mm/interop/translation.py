"""Another library's weights by the names of a config's model."""

import argparse
import math
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.interop.hugging_face_keys import (
    HUGGING_FACE_DINOV2,
    HUGGING_FACE_HEADS,
    HUGGING_FACE_PREFIXES,
    HUGGING_FACE_VIT,
    join_qkv,
)
from poslabel_mm.interop.key_map import KeyMap
from poslabel_mm.interop.network import family
from poslabel_mm.interop.sincos_order import mae_sincos, sincos_order
from poslabel_mm.interop.swin_keys import merging_to_ours, official_swin, timm_swin
from poslabel_mm.interop.vit_keys import DEIT_III, MAE_DECODER, TIMM_VIT, UNFUSED_QKV, VIT_HEADS
from poslabel_mm.tokens.labels import num_absolute
from poslabel_mm.tokens.masked import built_grid

# Names, in the other libraries, of weights that the features depend on.
_ENCODER = re.compile(
    r'(blocks|layers|stages|layer|levels|cls_token|pos_embed|patch_embed|norm|norm_pre|fc_norm'
    r'|vit\.(encoder|embeddings|layernorm)|rel_pos_bias)\b'
)
# Names that match, but whose weights can be left out: masked patches occur only in pre-training,
# tables are computed when a model is built, and the report explains register tokens.
_DISPENSABLE = re.compile(
    r'(.*\.)?(mask_token|register_tokens|reg_token|relative_position_index|attn_mask)'
)


@dataclass
class Translation:
    """Another library's weights by MMPretrain's names.

    Attributes:
        weights (dict[str, Tensor]): Those that have a name there.
        left (list[str]): The other library's names of the rest.
        notes (list[str]): What else is to be said of them.
    """

    weights: dict[str, Tensor]
    left: list[str]
    notes: list[str] = field(default_factory=list)

    def lost(self) -> list[str]:
        """Those of the rest without which the encoder would compute other features."""
        return [
            name for name in self.left if _ENCODER.match(name) and not _DISPENSABLE.fullmatch(name)
        ]


def translated(
    args: argparse.Namespace, foreign: dict[str, Tensor], model: nn.Module
) -> Translation:
    """Translate a file's weights to the names of a config's model.

    Args:
        args (argparse.Namespace): The command's; ``layout`` is whose names they are.
        foreign (dict[str, Tensor]): The file's weights.
        model (nn.Module): Its backbone and head decide about the names.

    Raises:
        UserError: If the file is of another kind of ViT.
    """
    kind = family(model)
    if kind == 'timm':
        return _of_timm_backbone(foreign, model)
    if kind == 'swin':
        return _of_swin(args, foreign, model)
    return _of_vit(args, foreign, model)


def _of_vit(args: argparse.Namespace, foreign: dict[str, Tensor], model: nn.Module) -> Translation:
    if args.layout == 'hf':
        foreign = {_with_vit(name): value for name, value in foreign.items()}
        is_dinov2 = any('.layer_scale1.' in name for name in foreign)
        names = HUGGING_FACE_DINOV2 if is_dinov2 else HUGGING_FACE_VIT
        names = names | _heads(model, HUGGING_FACE_HEADS)
    else:
        names = TIMM_VIT | UNFUSED_QKV | _heads(model, VIT_HEADS)
        foreign = {_unchunked(name): value for name, value in foreign.items()}
        if args.layout == 'deit' and any(name.endswith('.gamma_1') for name in foreign):
            names = names | DEIT_III
        if args.layout == 'mae' and hasattr(getattr(model, 'neck', None), 'decoder_pred'):
            names = names | MAE_DECODER
    translation = _rename(foreign, names)
    translation.weights = join_qkv(translation.weights)
    if 'backbone.dist_token' in translation.weights and not hasattr(model.backbone, 'dist_token'):
        raise UserError(
            f'{args.file} has a distillation token, for which {type(model.backbone).__name__} has '
            'no place: set model.backbone.type=DistilledVisionTransformer and '
            'model.head.type=DeiTClsHead'
        )
    _add_class_place(translation, model)
    _place_encoding(args, translation, model)
    return translation


def _add_class_place(translation: Translation, model: nn.Module) -> None:
    """Give an encoding of the patches alone a row for the class token, to which nothing is added.

    DeiT III's, and timm's with register tokens, are such; zeros are the same function.
    """
    encoding = translation.weights.get('backbone.pos_embed')
    own = dict(model.backbone.named_parameters(recurse=False)).get('pos_embed')
    if encoding is None or own is None or encoding.dim() != 3:
        return
    patches, N = num_absolute(built_grid(model.backbone)), encoding.shape[1]
    grid = getattr(model.backbone, 'checkpoint_grid', None)
    if own.shape[1] != patches + 1 or N == patches + 1:
        return
    if N == num_absolute(grid) if grid else N == patches or math.isqrt(N) ** 2 == N > 1:
        row = encoding.new_zeros(1, 1, encoding.shape[2])
        translation.weights['backbone.pos_embed'] = torch.cat([row, encoding], dim=1)
        translation.notes.append(
            'pos_embed is of the patches alone: the class token gets zeros, which is the same '
            'function'
        )


def _place_encoding(args: argparse.Namespace, translation: Translation, model: nn.Module) -> None:
    """Say whose order the channels of an encoding have; give MAE's encoder its own if it has none.

    The encoding itself stays with the weights that were trained with it.
    """
    encoding = translation.weights.get('backbone.pos_embed')
    own = dict(model.backbone.named_parameters(recurse=False)).get('pos_embed')
    if encoding is None and args.layout == 'mae' and own is not None:
        extra = model.backbone.num_extra_tokens
        if math.isqrt(own.shape[1] - extra) ** 2 == own.shape[1] - extra:
            translation.weights['backbone.pos_embed'] = mae_sincos(own.detach(), extra)
            translation.notes.append(
                "the file has no pos_embed: MAE's own sine-cosine encoding takes its place, whose "
                "rows and columns are exchanged against MMPretrain's"
            )
        return
    if encoding is None or encoding.dim() != 3:
        return
    if own is None:
        translation.notes.append('pos_embed is ignored: the model of the config adds no encoding')
    elif sincos_order(encoding) == 'MAE':
        translation.notes.append(
            "pos_embed is MAE's sine-cosine encoding, whose rows and columns are exchanged "
            "against MMPretrain's: it is kept, as the weights were trained with it"
        )


def _of_swin(
    args: argparse.Namespace, foreign: dict[str, Tensor], model: nn.Module
) -> Translation:
    last = model.backbone.num_layers - 1
    # timm before 0.9 has the layout of Swin's own code.
    is_official = args.layout == 'swin' or any(
        name.startswith('layers.0.downsample.') for name in foreign
    )
    names = (official_swin if is_official else timm_swin)(last)
    foreign = {
        name: value
        for name, value in foreign.items()
        if not name.endswith(('relative_position_index', 'attn_mask'))  # computed when built
    }
    translation = _rename(foreign, names)
    translation.weights = merging_to_ours(translation.weights)
    return translation


def _of_timm_backbone(foreign: dict[str, Tensor], model: nn.Module) -> Translation:
    timm = model.backbone.timm_model
    classifier = timm.pretrained_cfg.get('classifier')
    own = timm.state_dict()
    weights, left = {}, []
    for name, value in foreign.items():
        start, _, end = name.rpartition('.')
        if name in own:
            weights[f'backbone.timm_model.{name}'] = value
        elif start == classifier and hasattr(getattr(model, 'head', None), 'fc'):
            weights[f'head.fc.{end}'] = value
        else:
            left.append(name)
    return Translation(weights, left)


def _rename(foreign: dict[str, Tensor], names: KeyMap) -> Translation:
    weights, left = {}, []
    for name, value in foreign.items():
        own = names.ours(name)
        if own is None:
            left.append(name)
        else:
            weights[own] = value
    return Translation(weights, left)


def _heads(model: nn.Module, heads: dict[str, str]) -> dict[str, str]:
    """Those of the classifiers that the model has."""
    own = model.state_dict()
    return {name: other for name, other in heads.items() if f'{name}.weight' in own}


def _with_vit(name: str) -> str:
    """A name of Hugging Face's, with the prefix of a model around the ViT."""
    start, _, rest = name.partition('.')
    if start in HUGGING_FACE_PREFIXES:
        return f'vit.{rest}'
    return f'vit.{name}' if start in ('embeddings', 'encoder', 'layernorm') else name


def _unchunked(name: str) -> str:
    """A name of DINOv2's, whose layers may be numbered within chunks: ``blocks.0.3.norm1``."""
    parts = name.split('.')
    if parts[0] == 'blocks' and len(parts) > 2 and parts[2].isdigit():
        del parts[1]
    return '.'.join(parts)
